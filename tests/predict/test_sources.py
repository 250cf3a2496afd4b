"""Images and videos are found as a training finds them, and nothing is dropped without a word."""

from pathlib import Path

import pytest

from resnest_backbones.errors import DatasetError
from resnest_backbones.predict.sources import find_files


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("1.jpg", "north/1.jpg", "south/far/2.PNG", "clip.mp4", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_sub_folders_are_read_and_results_keep_them(folder):
    images, videos = find_files([str(folder)])
    assert images == {
        "1": folder / "1.jpg",
        "north/1": folder / "north/1.jpg",
        "south/far/2": folder / "south/far/2.PNG",
    }
    assert videos == {"clip": folder / "clip.mp4"}


def test_a_video_where_images_are_needed_is_an_error_unless_a_folder_has_it(folder):
    assert len(find_files([str(folder)], allow_videos=False)[0]) == 3
    with pytest.raises(DatasetError, match="clip.mp4 is a video, but only images are supported here"):
        find_files([str(folder / "1.jpg"), str(folder / "clip.mp4")], allow_videos=False)


@pytest.mark.parametrize(
    ("names", "allow_videos", "message"),
    [
        (["nowhere.jpg"], True, "nowhere.jpg does not exist"),
        (["empty"], True, r"no images or videos \(.jpg, .*, .mpeg\) in .*empty"),
        (["empty"], False, r"no images \(.jpg, .*, .webp\) in .*empty"),
        (["1.jpg", "north"], True, "different names, got .*1.jpg and .*north/1.jpg"),
    ],
)
def test_what_cannot_be_used_is_named(folder, names, allow_videos, message):
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match=message):
        find_files([str(folder / name) for name in names], allow_videos=allow_videos)
