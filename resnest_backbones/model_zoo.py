"""Names of packaged recipes -> their config files and published figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent
_ENCODING = "github.com/zhanghang1989/PyTorch-Encoding docs/source/model_zoo/segmentation.rst"
_MMSEG = "github.com/open-mmlab/mmsegmentation configs/resnest/README.md"
_RESNEST = "github.com/zhanghang1989/ResNeSt README.md"

SINGLE_SCALE, MULTI_SCALE, NOT_STATED = "one scale", "several scales and flip", "not stated"


@dataclass(frozen=True)
class Recipe:
    """What was published of a detection recipe.

    Attributes:
        name: of the config file, without its ending.
        box_ap: box AP on COCO val2017 in percent.
        source: where it was published.
    """

    name: str
    box_ap: float
    source: str = "github.com/zhanghang1989/ResNeSt d2/README.md"


@dataclass(frozen=True)
class SegmentationRecipe:
    """What was published of a segmentation recipe, on the validation split of its data set.

    Attributes:
        name: of the config file, without its ending; it names method, backbone and data set.
        miou: mean intersection over union in percent.
        evaluation: how ``miou`` was measured.
        pix_acc: pixel accuracy in percent, measured likewise; None where it was not published.
        miou_ms: the same network's mIoU over several scales with flip, where both were published.
        source: where it was published.
    """

    name: str
    miou: float
    evaluation: str = MULTI_SCALE
    pix_acc: float | None = None
    miou_ms: float | None = None
    source: str = _ENCODING


_ROWS = (
    Recipe("faster_rcnn_resnest50_fpn_1x", box_ap=42.33),
    Recipe("faster_rcnn_resnest101_fpn_1x", box_ap=44.72),
)


def _paper(method: str, dataset: str, miou: float, pix_acc: float, source: str = _ENCODING) -> SegmentationRecipe:
    name = f"{method}-d8_4xb4-paper_{dataset}-480x480"
    return SegmentationRecipe(name, miou, pix_acc=pix_acc, source=source)


def _mmseg(method: str, training: str, miou: float, miou_ms: float) -> SegmentationRecipe:
    return SegmentationRecipe(f"{method}_resnest101-d8_{training}", miou, SINGLE_SCALE, miou_ms=miou_ms, source=_MMSEG)


_ADE20K, _CITYSCAPES = "4xb4-160k_ade20k-512x512", "4xb2-80k_cityscapes-512x1024"
_SEGMENTATION_ROWS = (
    _paper("fcn_resnest50", "ade20k", 42.94, 80.18),
    _paper("deeplabv3_resnet50", "ade20k", 42.1, 80.39, _RESNEST),
    _paper("deeplabv3_resnet101", "ade20k", 44.14, 81.11, _RESNEST),
    _paper("deeplabv3_resnest50", "ade20k", 45.12, 81.17),
    _paper("deeplabv3_resnest101", "ade20k", 46.91, 82.07),
    _paper("deeplabv3_resnest200", "ade20k", 48.36, 82.45),
    _paper("deeplabv3_resnest269", "ade20k", 47.6, 82.62),
    _paper("fcn_resnest50", "pascal_context_59", 51.98, 79.19),
    _paper("deeplabv3_resnest50", "pascal_context_59", 53.19, 80.41),
    _paper("deeplabv3_resnest101", "pascal_context_59", 56.49, 81.91),
    _paper("deeplabv3_resnest200", "pascal_context_59", 58.37, 82.5),
    _paper("deeplabv3_resnest269", "pascal_context_59", 58.92, 83.06),
    _mmseg("fcn", _ADE20K, 45.62, 46.16),
    _mmseg("pspnet", _ADE20K, 45.44, 46.28),
    _mmseg("deeplabv3", _ADE20K, 45.71, 46.59),
    _mmseg("deeplabv3plus", _ADE20K, 46.47, 47.27),
    _mmseg("fcn", _CITYSCAPES, 77.56, 78.98),
    _mmseg("pspnet", _CITYSCAPES, 78.57, 79.19),
    _mmseg("deeplabv3", _CITYSCAPES, 79.67, 80.51),
    _mmseg("deeplabv3plus", _CITYSCAPES, 79.62, 80.27),
    SegmentationRecipe(f"deeplabv3plus_resnest200-d8_{_CITYSCAPES}", 82.7, NOT_STATED, source=_RESNEST),
)

RECIPES: dict[str, Recipe] = {row.name: row for row in _ROWS}
SEGMENTATION_RECIPES: dict[str, SegmentationRecipe] = {row.name: row for row in _SEGMENTATION_ROWS}


def config_root() -> Path:
    """The folder that holds ``detectron2/`` and ``mmseg/`` configs: in the installed package or in the checkout."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


def _config_files() -> dict[str, Path]:
    """Short names -> config files that are no base of others, Detectron2's first."""
    root = config_root()
    files = [*sorted((root / "detectron2").rglob("*.yaml")), *sorted((root / "mmseg").rglob("*.py"))]
    return {file.stem: file for file in files if "_base_" not in file.relative_to(root).parts}


def get_config_file(name: str) -> str:
    """The path of a packaged config by its short name, such as ``faster_rcnn_resnest50_fpn_1x``.

    >>> get_config_file("faster_rcnn_resnest50_fpn_1x").endswith("coco_detection/faster_rcnn_resnest50_fpn_1x.yaml")
    True
    >>> get_config_file("fcn_resnest50-d8_4xb4-paper_ade20k-480x480").endswith("480x480.py")
    True

    Raises:
        ValueError: no packaged config has that name; the message lists those there are.
    """
    files = _config_files()
    if name not in files:
        raise ValueError(f"name must be one of {', '.join(files)}, got {name!r}")
    return str(files[name])
