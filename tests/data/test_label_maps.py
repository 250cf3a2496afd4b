"""Label maps are compared with the classes before any work."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnest_backbones.data import check_label_maps, label_maps, pair_label_maps, read_label_map
from resnest_backbones.data.label_maps import read_labels
from resnest_backbones.errors import DatasetError


def write_maps(folder: Path, *values: list[int]) -> list[tuple[Path, Path]]:
    """A label map of two rows for each list of values, and its image."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pairs = []
    for number, row in enumerate(values):
        pairs.append((folder / "images" / f"{number}.png", folder / f"{number}.png"))
        for file in pairs[-1]:
            Image.fromarray(np.array([row, row], dtype=np.uint8)).save(file)
    return pairs


def write_png(file: Path, values: np.ndarray, *, bits: int, colour: int) -> None:
    """A PNG of less than 8 bits: grey (colour 0), or with a palette (colour 3), which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    height, width = values.shape
    spread = ((values[..., None] >> np.arange(bits)[::-1]) & 1).reshape(height, -1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(spread, axis=1))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    chunks = chunk(b"IHDR", header)
    if colour == 3:
        chunks += chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\0\x80")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        (["sky"], [[0, 1]], "names one class, sky, .*: list the background too"),
        (
            ["road", "sky"],
            [[0, 255], [0, 0]],
            r"every pixel of 2 of 2 .* contain only 0 \(6 pixels\) and 255 \(2 pixels\)",
        ),
        (["road", "sky"], [[255, 255]], r"contain only 255 \(4 pixels\), .*write 1 for road, 2 for sky"),
        (["road", "sky"], [[1, 2], [3, 9]], r"beyond the 2 classes or 255: 3 \(2 pixels, as in .*1.png\), 9 \(2"),
    ],
)
@pytest.mark.fault("label maps: every pixel ignored, labels of no class, one class", "refused with values and counts")
def test_label_maps_that_teach_nothing_are_refused(classes, values, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        check_label_maps(write_maps(tmp_path / "maps", *values), classes)


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ([[0, 1], [2, 3]], []),
        ([[1, 2]], ["1 of 3 classes never occur in 1 of 1 label maps in {}: 3 (tree)"]),
        (
            [[2, 255]],
            [
                "2 of 3 classes never occur in 1 of 1 label maps in {}: 1 (road), 3 (tree); a network that sees only "
                "one class learns to predict it everywhere"
            ],
        ),
        (
            [[0, 1], [1, 2]],
            [
                "1 of 3 classes never occur in 2 of 2 label maps in {}: 3 (tree); if label 0 is the first class there, "
                "add 1 to all labels, because 0 means unlabeled"
            ],
        ),
    ],
)
def test_classes_that_never_occur_are_named(values, lines, tmp_path):
    found = check_label_maps(write_maps(tmp_path / "maps", *values), ["road", "sky", "tree"])
    assert found == [line.format(tmp_path / "maps") for line in lines]


def test_of_many_label_maps_some_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "CHECKED_LABEL_MAPS", 2)
    pairs = write_maps(tmp_path / "maps", [1, 1], [1, 2], [1, 1], [1, 1])
    (line,) = check_label_maps(pairs, ["road", "sky"])
    assert "in 2 of 4 label maps" in line and "2 (sky)" in line


def test_a_label_map_of_another_size_than_its_upright_image_is_named(tmp_path):
    ((image, label_map),) = write_maps(tmp_path, [1, 2])
    check_label_maps([(image, label_map)], ["road", "sky"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 2 + 1)).save(image)
    for turned, size in ((False, r"\(3, 2\)"), (True, r"\(2, 3\)")):
        if turned:
            Image.new("RGB", (2, 3)).save(image, exif=exif)
        with pytest.raises(
            DatasetError, match=rf"{label_map} must have the height and width of .* {size}, got \(2, 2\)"
        ):
            check_label_maps([(image, label_map)], ["road", "sky"])
    with pytest.raises(DatasetError, match=f"{label_map} must have the height and width of its image {image}"):
        read_labels(label_map, image, (2, 3), 2)


VALUES = np.array([[0, 1, 2, 1], [3, 3, 0, 2]])
READ = {
    "palette": lambda: Image.fromarray(VALUES.astype(np.uint8), "P"),
    "1 bit": lambda: Image.fromarray(VALUES == 1),
    "16 bits": lambda: Image.fromarray(VALUES.astype(np.uint16)),
    "32 bits": lambda: Image.fromarray(VALUES.astype(np.int32)),
}


@pytest.mark.parametrize("kind", [*READ, "2 bits", "4 bits", "transparent palette of 2 bits"])
@pytest.mark.fault("label maps: 1 to 32 bits, palettes", "the numbers of the file")
def test_label_maps_keep_the_numbers_of_the_file_whatever_its_depth(kind, tmp_path):
    file = tmp_path / ("a.tif" if kind == "32 bits" else "a.png")
    if kind in READ:
        image = READ[kind]()
        if image.mode == "P":
            image.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.save(file, **({"bits": 8} if image.mode == "P" else {}))
    else:
        grey = kind in ("2 bits", "4 bits")
        write_png(file, VALUES, bits=4 if kind == "4 bits" else 2, colour=0 if grey else 3)
    labels = read_label_map(file)
    assert labels.dtype == np.uint8 and np.array_equal(labels, VALUES == 1 if kind == "1 bit" else VALUES)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (4, 2)), "color image with 3 channels"),
        (Image.new("RGBA", (4, 2)), "color image with 4 channels"),
        (Image.new("LA", (4, 2)), "color image with 2 channels"),
        (Image.fromarray(np.full((2, 4), 0.5, np.float32)), "must contain integers"),
        (None, "cannot be read as an image: its format is unknown, or it is damaged"),
    ],
)
@pytest.mark.fault("label maps: of colours or fractions, or no images", "an error names the file")
def test_what_is_no_label_map_is_named(image, reason, tmp_path):
    file = tmp_path / ("a.tif" if image is not None and image.mode == "F" else "a.png")
    if image is None:
        file.write_text("<html>")
    else:
        image.save(file)
    with pytest.raises(DatasetError, match=f"the label map {file} .*{reason}"):
        read_label_map(file)
    with pytest.raises(DatasetError, match=f"the label map {file}.none does not exist"):
        read_label_map(f"{file}.none")


def test_labels_count_from_0_and_what_is_ignored_is_minus_1(tmp_path):
    ((image, label_map),) = write_maps(tmp_path, [0, 1, 2, 255])
    assert read_labels(label_map, image, (2, 4), 2)[0].tolist() == [-1, 0, 1, -1]
    with pytest.raises(DatasetError, match=rf"{label_map} must hold labels from 0 to 1 .*got 2 \(2 pixels\)"):
        read_labels(label_map, image, (2, 4), 1)


def test_what_is_left_out_is_counted(tmp_path):
    write_maps(tmp_path / "maps", [1, 2])
    (tmp_path / "maps" / "images").rename(tmp_path / "images")
    assert pair_label_maps(tmp_path / "images", tmp_path / "maps")[1] == []
    for name in ("images/notes.txt", "images/b.gif", "maps/b.png"):
        (tmp_path / name).touch()
    pairs, (files, maps) = pair_label_maps(tmp_path / "images", tmp_path / "maps")
    assert pairs == [(tmp_path / "images" / "0.png", tmp_path / "maps" / "0.png")]
    assert files.startswith("2 files in ") and files.endswith("are left out: b.gif, notes.txt")
    assert maps == f"1 label maps in {tmp_path / 'maps'} have no image and are left out: b.png"
    (tmp_path / "images" / "b.jpg").symlink_to(tmp_path / "nothing.jpg")
    with pytest.raises(DatasetError, match="1 of 2 images in .* are broken links: b.jpg"):
        pair_label_maps(tmp_path / "images", tmp_path / "maps")
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "maps" / "0.png").rename(tmp_path / "maps" / "0.jpg")
    with pytest.raises(DatasetError, match="1 of 1 images .*: 0.png; label maps must be PNG, got 0.jpg"):
        pair_label_maps(tmp_path / "images", tmp_path / "maps")
