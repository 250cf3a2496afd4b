"""The one reader of images: odd files are read in the same way by every tool, and broken ones are named."""

import ast
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from resnest_backbones.data import files_below, read_image
from resnest_backbones.data.images import read_size
from resnest_backbones.errors import DatasetError
from tests.helpers import MORE_ODD_IMAGES, ROOT, odd_image

# Turning a picture, and finding it again in COCO's panoptic files, whose colours are numbers of segments.
MAY_OPEN_IMAGES = {
    "resnest_backbones/data/images.py",
    "tools/reproduction/panoptic_coco.py",
    "tools/reproduction/data.py",
    "tools/run_notebooks.py",  # the pictures in notebooks
}
READERS = {"imread", "imdecode", "imfrombytes", "read_image"}


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> list[tuple[Path, int, int]]:
    folder = tmp_path_factory.mktemp("odd")
    return [odd_image(name, folder) for name in MORE_ODD_IMAGES]


def test_odd_images_become_rgb_of_their_upright_size(odd):
    for file, width, height in odd:
        image = read_image(file)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8, file
        assert read_size(file)[0] == (width, height), file
        np.testing.assert_array_equal(read_image(file.name, file.read_bytes()), image)
        if "cmyk" not in file.name and "turned_tiff" not in file.name:  # OpenCV rounds, and does not turn
            np.testing.assert_array_equal(image, cv2.imread(str(file))[..., ::-1], err_msg=str(file))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.fault("images: the orientations of EXIF in JPEG, PNG, TIFF and WebP", "turned upright")
def test_each_orientation_of_exif_is_turned_upright(suffix, orientation, tmp_path):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 255  # the corner says how it was turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(file, exif=exif)
    image = read_image(file)
    with Image.open(file) as opened:
        np.testing.assert_array_equal(image, np.asarray(ImageOps.exif_transpose(opened).convert("RGB")))
    upright, raw = read_size(file)
    assert image.shape[:2] == upright[::-1] and raw == (48, 32)
    assert image.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    bright = [(down, across) for down in (0, 1) for across in (0, 1) if image[-4 * down, -4 * across].mean() > 128]
    assert bright == [corner]


def test_grey_and_four_channels_are_read_where_they_are_wanted(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    for name in ("four.png", "four.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=4), pixels)
    Image.fromarray(np.full((5, 7), 0x1234, np.uint16)).save(tmp_path / "16_bits.png")
    assert (read_image(tmp_path / "16_bits.png", channels=1) == 0x12).all()
    assert read_image(tmp_path / "four.png", channels=1).shape == (5, 7, 1)
    with pytest.raises(DatasetError, match=r"16_bits\.png must have 4 channels, got 1 \(L\)"):
        read_image(tmp_path / "16_bits.png", channels=4)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def write_fault(name: str, folder: Path) -> Path:
    """A file that no reader should take."""
    file = folder / f"{name.replace(' ', '_')}.{'tif' if 'numbers' in name else 'png'}"
    if name == "folder":
        file.mkdir()
    elif name == "empty":
        file.touch()
    elif name == "link to nothing":
        file.symlink_to(folder / "gone.png")
    elif name == "numbers of floating point":
        Image.fromarray(np.random.default_rng(0).random((4, 6), np.float32)).save(file)
    elif name == "numbers of 32 bits":
        Image.fromarray(np.full((4, 6), 1 << 20, np.int32)).save(file)
    elif name == "huge":
        header = b"IHDR", (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + png_chunk(*header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""))
    elif name != "missing":
        return odd_image(name, folder)[0]
    return file


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "does not exist"),
        ("link to nothing", "does not exist"),
        ("folder", "Is a directory"),
        ("empty", "its format is unknown, or it is damaged"),
        ("web page", "its format is unknown, or it is damaged"),
        ("truncated", "image file is truncated"),
        ("numbers of floating point", "save it with 8 or 16 bits"),
        ("numbers of 32 bits", "save it with 8 or 16 bits"),
        ("huge", "exceeds limit"),
    ],
)
@pytest.mark.fault("images: none, empty, cut, huge, of 32 bits", "an error names the file")
def test_what_is_no_image_is_named(name, reason, tmp_path):
    file = write_fault(name, tmp_path)
    with pytest.raises(DatasetError, match=reason) as raised:
        read_image(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_exif_that_is_damaged_turns_nothing(tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (32, 48, 3) and read_size(tmp_path / "a.jpg")[0] == (48, 32)


@pytest.mark.fault("images: odd kinds", "a detector is trained and evaluated on the pixels that tools read")
def test_a_detector_is_trained_and_evaluated_on_these_pixels(record_property, odd):
    record_property("times", len(odd))
    pytest.importorskip("detectron2")
    from detectron2.config import get_cfg

    from resnest_backbones.detectron2.engine.data import ImageMapper

    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RANDOM_FLIP = (0,), 0, "none"
    for file, width, height in odd:
        for train in (True, False):
            sample = ImageMapper(cfg, is_train=train)({"file_name": str(file), "width": width, "height": height})
            np.testing.assert_array_equal(sample["image"].numpy()[::-1].transpose(1, 2, 0), read_image(file))


@pytest.mark.fault("images: odd kinds", "a segmentor is trained and tested on the pixels that tools read")
def test_a_segmentor_is_trained_evaluated_and_predicts_on_these_pixels(record_property, odd, tmp_path):
    record_property("times", len(odd))
    pytest.importorskip("mmseg")
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    from resnest_backbones.mmseg import LabelMapDataset
    from resnest_backbones.mmseg.transforms import with_image_reader

    init_default_scope("mmseg")
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for file, width, height in odd:
        (tmp_path / "images" / file.name).symlink_to(file)
        Image.new("L", (width, height), 1).save(tmp_path / "maps" / f"{file.stem}.png")
    (tmp_path / "classes.txt").write_text("one\ntwo")
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadCheckedAnnotations"}]
    prefix = {"img_path": "images", "seg_map_path": "maps"}
    dataset = LabelMapDataset(data_root=tmp_path, data_prefix=prefix, pipeline=steps)
    assert len(dataset) == len(odd)
    for sample in dataset:
        np.testing.assert_array_equal(sample["img"][..., ::-1], read_image(sample["img_path"]))
    augmented = [{"type": "TestTimeAug", "transforms": [[{"type": "mmseg.LoadImageFromFile", "to_float32": True}]]}]
    for pipeline in (steps[:1], augmented):
        found = Compose(with_image_reader(pipeline))({"img_path": str(odd[4][0])})["img"]
        np.testing.assert_array_equal(np.squeeze(found)[..., ::-1], read_image(odd[4][0]))
    assert with_image_reader([{"type": "LoadImageFromFile", "color_type": "unchanged"}])[0]["type"] == steps[0]["type"]


@pytest.mark.fault("images: odd kinds", "demo and quantize see the pixels that tools read")
def test_tools_predict_and_calibrate_on_these_pixels(record_property, odd, tmp_path):
    record_property("times", len(odd))
    pytest.importorskip("onnxruntime")
    from resnest_backbones.export.quantize import _read
    from resnest_backbones.predict import Predictor
    from resnest_backbones.predict.results import ResultWriter

    seen: list[torch.Tensor] = []

    def run(x: torch.Tensor) -> list[torch.Tensor]:
        seen.append(x)
        return [torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0)]

    facts = {"task": "detection", "classes": ["a"], "channel_order": "RGB", "inputs": ["image"]}
    predictor = Predictor(run, {**facts, "outputs": ["boxes", "classes", "scores"]})
    writer = ResultWriter(predictor, tmp_path)
    for file, _, _ in odd:
        writer.predict_image(file, file.stem)
    calibrated = [next(_read([file], facts))["image"] for file, _, _ in odd]
    for (file, _, _), of_demo, of_quantize in zip(odd, seen, calibrated, strict=True):
        np.testing.assert_array_equal(of_demo.numpy().transpose(1, 2, 0), read_image(file))
        np.testing.assert_array_equal(of_quantize.transpose(1, 2, 0), read_image(file))


def test_nothing_else_opens_images():
    """Neither by Pillow, nor by OpenCV, MMCV or Detectron2."""
    found = set()
    for file in [*(ROOT / "resnest_backbones").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (
                node.attr in READERS or (node.attr == "open" and getattr(node.value, "id", "") == "Image")
            ):
                found.add(str(file.relative_to(ROOT)))
    assert found == MAY_OPEN_IMAGES


@pytest.mark.fault("links to folders, in circles, to itself", "followed once")
def test_files_in_linked_folders_are_found_and_links_in_circles_end(tmp_path):
    (tmp_path / "in" / "b" / ".hidden").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    for name in ("in/a.PNG", "in/b/c.jpg", "far/d.tif", "in/.e.png", "in/b/.hidden/f.png", "in/notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to("self")
    found = [str(path) for path in files_below(tmp_path / "in", (".png", ".jpg", ".tif"))]
    assert found == ["a.PNG", "b/c.jpg", "link/d.tif"]
    assert [str(path) for path in files_below(tmp_path / "in")] == [*found, "notes.txt", "self"]
    with pytest.raises(OSError):
        files_below(tmp_path / "gone")
