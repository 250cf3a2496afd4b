"""``tools/demo.py``: images, folders, videos and streams in; drawings and json out; one line for mistakes."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("cv2")

import cv2
from PIL import Image

from demo import run
from resnest_backbones.data import read_image
from resnest_backbones.export import save
from resnest_backbones.export.detectors import export_detector
from resnest_backbones.predict.sources import Video
from tests.export.test_detectors import random_detector


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A detector as a file."""
    facts = {"channel_order": "RGB", "resize": {"shortest": 64, "longest": 100}, "classes": ["cat", "dog", "cow"]}
    file = tmp_path_factory.mktemp("model") / "model.torchscript"
    save(export_detector(random_detector("cascade-mask-deformable"), (64, 64), metadata=facts), "torchscript", file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, one broken, and a video of five frames."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (5, 64, 81, 3), dtype=np.uint8)
    Image.fromarray(frames[0]).save(root / "a.png")
    Image.fromarray(frames[1][..., 0]).save(root / "grey.png")
    (root / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    (root / "notes.txt").write_text("not an image")
    writer = cv2.VideoWriter(str(root / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (80, 64))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :80]))
    writer.release()
    return root


def demo(*arguments: object) -> None:
    run([str(argument) for argument in arguments])


def test_images_videos_and_streams_are_drawn_and_told(model, folder, tmp_path):
    with pytest.raises(SystemExit) as status:
        demo(
            *("--model", model, folder, "--camera", folder / "video.mp4", "--max-frames", 3, "--min-score", 0),
            *("--output-dir", tmp_path / "out"),
        )
    message = str(status.value.code)
    assert "broken.jpg cannot be read as an image" in message and "\n" not in message
    out = tmp_path / "out"
    drawn = {file.name for file in (out / "drawn").iterdir()}
    assert drawn == {"a.png", "grey.png", "video.mp4", "camera.mp4"}
    for name in ("video", "camera"):
        video = Video(str(out / "drawn" / f"{name}.mp4"), name)
        assert video.frames_per_second == 10 and [frame.shape for frame in video] == [(384, 480, 3)] * 3
    records = json.loads((out / "predictions.json").read_text())
    assert records["task"] == "detection" and records["classes"] == ["cat", "dog", "cow"]
    assert [record.get("frame") for record in records["images"]] == [None, None, 0, 1, 2, 0, 1, 2]
    first = records["images"][0]
    assert (first["height"], first["width"]) == (64, 81) and len(first["detections"]) > 3
    thing = first["detections"][0]
    assert thing["category"] == records["classes"][thing["category_index"]]
    assert thing["segmentation"]["size"] == [64, 81] and isinstance(thing["segmentation"]["counts"], str)
    plain = np.asarray(Image.fromarray(read_image(folder / "a.png")).resize((486, 384), Image.Resampling.LANCZOS))
    assert np.mean(np.asarray(Image.open(out / "drawn" / "a.png")) != plain) > 0.05


def test_a_wrong_command_line_is_explained(capsys):
    for words, message in (
        ("photo.jpg", "either --model or --config must be given"),
        ("--config a.yaml photo.jpg", "--config needs --checkpoint"),
        ("--model a.onnx", "FILE_OR_FOLDER or --camera must be given"),
        ("--model a.onnx --classes x.txt photo.jpg", "--classes requires --config"),
        ("--model a.onnx photo.jpg --min-score 2", "--min-score must be from 0 to 1, got 2.0"),
        ("--model a.onnx photo.jpg --max-frames 0", "--max-frames must be positive, got 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            demo(*words.split())
        assert message in capsys.readouterr().err


def test_missing_files_are_named(model, folder, tmp_path, monkeypatch):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    out = ["--output-dir", tmp_path / "out"]
    for arguments, message in (
        (["--model", tmp_path / "no.onnx", folder], "no.onnx does not exist"),
        (
            ["--model", "faster_rcnn_resnest50_fpn_1x_mmdte", folder],
            "did you mean faster_rcnn_resnest50_fpn_1x_mmdet or",
        ),
        (["--model", model, tmp_path / "no.jpg"], "no.jpg does not exist"),
        (["--model", model, "--camera", 99], "the camera cannot be opened as a video"),
        (["--model", model, folder, "--show"], "--show needs a screen"),
    ):
        with pytest.raises(SystemExit, match=message):
            demo(*arguments, *out)
