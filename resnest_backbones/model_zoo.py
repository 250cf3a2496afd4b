"""Recipe names -> published metrics -> packaged configs -> models. Importing this module imports no framework."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from resnest_backbones.errors import CheckpointError, ConfigError, did_you_mean
from resnest_backbones.weights import PUBLISHED, SCHEME, PublishedFile, get_record

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MEASURED",
    "METRICS",
    "NUM_CLASSES",
    "RECIPES",
    "Measurement",
    "PublishedFile",
    "PublishedFileError",
    "Recipe",
    "config_root",
    "framework_of",
    "get",
    "get_config",
    "get_config_file",
    "list",
    "list_trained",
]

PublishedFileError = CheckpointError  # its documented name

# Name of a metric in the records, all of them in percent -> what to call it in a table.
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "box_ap": "box AP",
        "mask_ap": "mask AP",
        "pq": "PQ",
        "box_ap_test_dev": "box AP on test-dev, several scales and flip",
        "mask_ap_test_dev": "mask AP on test-dev, several scales and flip",
        "miou": "mIoU, one scale",
        "miou_multi_scale": "mIoU, several scales and flip",
        "pix_acc_multi_scale": "pixel accuracy, several scales and flip",
        "miou_scales_not_stated": "mIoU, scales not stated",
        "top1": "top-1 accuracy",
    }
)

NUM_CLASSES: Mapping[str, int] = MappingProxyType(  # by dataset
    {"coco": 80, "coco_panoptic": 133, "ade20k": 150, "pascal_context_59": 59, "cityscapes": 19}
)


@dataclass(frozen=True)
class Recipe:
    """A detector or segmentor with published metrics, and how it was trained."""

    name: str  # of the config file, without its ending
    framework: str  # ``detectron2`` or ``mmseg``
    dataset: str  # of ``NUM_CLASSES``: trained on its training split, measured on its validation split
    method: str  # what stands on the backbone, such as ``faster_rcnn``
    backbone: str  # name of the network; ``_dcnv2`` behind it: with modulated deformable convolution
    schedule: str  # how long it is trained, as its source calls it
    metrics: Mapping[str, float] = field(hash=False)  # what was published, in percent, by the names of ``METRICS``
    source: str  # where it was published

    def __post_init__(self) -> None:
        unknown = sorted(self.metrics.keys() - METRICS.keys())
        if unknown:
            raise ValueError(f"metrics must be of {', '.join(METRICS)}, got {unknown[0]!r}")
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    @property
    def file(self) -> PublishedFile | None:
        """The published checkpoint; None where there was none."""
        return PUBLISHED.get(self.name)

    @property
    def figures(self) -> Mapping[str, float]:
        """The earlier name of ``metrics``."""
        return self.metrics


_WRAPPER = "github.com/zhanghang1989/ResNeSt d2/README.md"
_ENCODING = "github.com/zhanghang1989/PyTorch-Encoding docs/source/model_zoo/segmentation.rst"
_MMSEG = "github.com/open-mmlab/mmsegmentation configs/resnest/README.md"
_MMDET = "github.com/open-mmlab/mmdetection configs/resnest/README.md"
_RESNEST = "github.com/zhanghang1989/ResNeSt README.md"


def _coco(method: str, backbone: str, schedule: str, **metrics: float) -> Recipe:
    panoptic = "pq" in metrics
    middle = "" if panoptic else "_fpn"
    name = f"{'panoptic_fpn' if panoptic else method}_{backbone}{middle}_{schedule}"
    dataset = "coco_panoptic" if panoptic else "coco"
    return Recipe(name, "detectron2", dataset, method, backbone, schedule, metrics, _WRAPPER)


def _mmdet(method: str, backbone: str, **metrics: float) -> Recipe:
    name = f"{method}_{backbone}_fpn_1x_mmdet"
    return Recipe(name, "detectron2", "coco", method, backbone, "1x", metrics, _MMDET)


def _paper(method: str, backbone: str, dataset: str, miou: float, pix_acc: float, schedule: str = "") -> Recipe:
    metrics = {"miou_multi_scale": miou, "pix_acc_multi_scale": pix_acc}
    schedule = schedule or {"ade20k": "120 epochs", "pascal_context_59": "80 epochs"}[dataset]
    name = f"{method}_{backbone}-d8_4xb4-paper_{dataset}-480x480"
    source = _ENCODING if name in PUBLISHED else _RESNEST
    return Recipe(name, "mmseg", dataset, method, backbone, schedule, metrics, source)


def _mmseg(
    method: str, dataset: str, *, backbone: str = "resnest101", source: str = _MMSEG, **metrics: float
) -> Recipe:
    schedule, training, crop = {
        "ade20k": ("160k", "4xb4-160k", "512x512"),
        "cityscapes": ("80k", "4xb2-80k", "512x1024"),
    }[dataset]
    name = f"{method}_{backbone}-d8_{training}_{dataset}-{crop}"
    return Recipe(name, "mmseg", dataset, method, backbone, schedule, metrics, source)


_RECIPES = (
    _coco("faster_rcnn", "resnet50", "1x", box_ap=39.25),
    _coco("faster_rcnn", "resnet101", "1x", box_ap=41.37),
    _coco("faster_rcnn", "resnest50", "1x", box_ap=42.33),
    _coco("faster_rcnn", "resnest50_dcnv2", "1x", box_ap=44.11),
    _coco("faster_rcnn", "resnest101", "1x", box_ap=44.72),
    _coco("cascade_rcnn", "resnet50", "1x", box_ap=42.52),
    _coco("cascade_rcnn", "resnet101", "1x", box_ap=44.03),
    _coco("cascade_rcnn", "resnest50", "1x", box_ap=45.41),
    _coco("cascade_rcnn", "resnest101", "1x", box_ap=47.5),
    _coco("cascade_rcnn", "resnest200", "1x", box_ap=49.03),
    _coco("mask_rcnn", "resnet50", "1x", box_ap=39.97, mask_ap=36.05),
    _coco("mask_rcnn", "resnet101", "1x", box_ap=41.78, mask_ap=37.51),
    _coco("mask_rcnn", "resnest50", "1x", box_ap=42.81, mask_ap=38.14),
    _coco("mask_rcnn", "resnest101", "1x", box_ap=45.75, mask_ap=40.65),
    _coco("mask_cascade_rcnn", "resnet50", "1x", box_ap=43.06, mask_ap=37.19),
    _coco("mask_cascade_rcnn", "resnet101", "1x", box_ap=44.79, mask_ap=38.52),
    _coco("mask_cascade_rcnn", "resnest50", "1x", box_ap=46.19, mask_ap=39.55),
    _coco("mask_cascade_rcnn", "resnest101", "1x", box_ap=48.3, mask_ap=41.56),
    _coco("mask_cascade_rcnn", "resnest200", "3x_all_tricks", box_ap=50.54, mask_ap=44.21),
    _coco("mask_cascade_rcnn", "resnest200_dcnv2", "3x_all_tricks", box_ap=50.91, mask_ap=44.5,
          box_ap_test_dev=53.3, mask_ap_test_dev=47.1),
    _coco("panoptic_cascade", "resnest200", "3x_tricks", box_ap=51.0, mask_ap=43.68, pq=47.9),
    _mmdet("faster_rcnn", "resnest50", box_ap=42.0),
    _mmdet("faster_rcnn", "resnest101", box_ap=44.5),
    _mmdet("cascade_rcnn", "resnest50", box_ap=44.5),
    _mmdet("cascade_rcnn", "resnest101", box_ap=46.8),
    _mmdet("mask_rcnn", "resnest50", box_ap=42.6, mask_ap=38.1),
    _mmdet("mask_rcnn", "resnest101", box_ap=45.2, mask_ap=40.2),
    _mmdet("mask_cascade_rcnn", "resnest50", box_ap=45.4, mask_ap=39.5),
    _mmdet("mask_cascade_rcnn", "resnest101", box_ap=47.7, mask_ap=41.4),
    _paper("fcn", "resnest50", "ade20k", 42.94, 80.18),
    _paper("deeplabv3", "resnet50", "ade20k", 42.1, 80.39),
    _paper("deeplabv3", "resnet101", "ade20k", 44.14, 81.11),
    _paper("deeplabv3", "resnest50", "ade20k", 45.12, 81.17),
    _paper("deeplabv3", "resnest101", "ade20k", 46.91, 82.07),
    _paper("deeplabv3", "resnest200", "ade20k", 48.36, 82.45, "180 epochs"),
    _paper("deeplabv3", "resnest269", "ade20k", 47.6, 82.62),
    _paper("fcn", "resnest50", "pascal_context_59", 51.98, 79.19),
    _paper("deeplabv3", "resnest50", "pascal_context_59", 53.19, 80.41),
    _paper("deeplabv3", "resnest101", "pascal_context_59", 56.49, 81.91),
    _paper("deeplabv3", "resnest200", "pascal_context_59", 58.37, 82.5),
    _paper("deeplabv3", "resnest269", "pascal_context_59", 58.92, 83.06),
    _mmseg("fcn", "ade20k", miou=45.62, miou_multi_scale=46.16),
    _mmseg("pspnet", "ade20k", miou=45.44, miou_multi_scale=46.28),
    _mmseg("deeplabv3", "ade20k", miou=45.71, miou_multi_scale=46.59),
    _mmseg("deeplabv3plus", "ade20k", miou=46.47, miou_multi_scale=47.27),
    _mmseg("fcn", "cityscapes", miou=77.56, miou_multi_scale=78.98),
    _mmseg("pspnet", "cityscapes", miou=78.57, miou_multi_scale=79.19),
    _mmseg("deeplabv3", "cityscapes", miou=79.67, miou_multi_scale=80.51),
    _mmseg("deeplabv3plus", "cityscapes", miou=79.62, miou_multi_scale=80.27),
    _mmseg("deeplabv3plus", "cityscapes", backbone="resnest200", source=_RESNEST, miou_scales_not_stated=82.7),
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})


@dataclass(frozen=True)
class Measurement:
    """What a run of a recipe gave, by whoever ran it."""

    name: str  # of the recipe
    metrics: Mapping[str, float] = field(hash=False)  # in percent, by the names of ``METRICS``
    machine: str  # what it ran on
    date: str  # when it ended, as year-month-day
    command: str  # what was typed


# No recipe was run in full yet: nothing here was trained on the whole of its dataset.
MEASURED: Mapping[str, Measurement] = MappingProxyType({})

_PACKAGE = Path(__file__).parent
_NOT_LISTED = {"_base_", "demo", "small"}  # bases of others, and what only a checkout trains


def config_root() -> Path:
    """Return the folder that holds ``detectron2/`` and ``mmseg/``: in the installed package or in the checkout."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


@cache
def _config_files() -> dict[str, Path]:
    """Map the names of all packaged configs to their files, Detectron2's first."""
    root = config_root()
    files: builtins.list[Path] = []
    for framework in ("detectron2", "mmseg"):
        files += sorted(f for f in (root / framework).rglob("*") if f.suffix in (".yaml", ".py"))
    return {file.stem: file for file in files if not _NOT_LISTED & {*file.relative_to(root).parts}}


def list() -> builtins.list[str]:
    """Return the names of all packaged configs, Detectron2's first; those with published metrics are in ``RECIPES``.

    Examples:
        >>> "faster_rcnn_resnest50_fpn_1x" in list()
        True
    """
    return [*_config_files()]


def list_trained() -> builtins.list[str]:
    """Return the names of the recipes whose published file can be fetched: ``resnest://NAME`` is that file.

    Examples:
        >>> "faster_rcnn_resnest50_fpn_1x_mmdet" in list_trained()
        True
    """
    return [name for name, recipe in RECIPES.items() if recipe.file and recipe.file.server_answers]


def get_config_file(name: str | PathLike[str]) -> str:
    """Return the path of a packaged config by its short name; the path of an existing config file as it is.

    Examples:
        >>> get_config_file("faster_rcnn_resnest50_fpn_1x").endswith("coco_detection/faster_rcnn_resnest50_fpn_1x.yaml")
        True
        >>> get_config_file("fcn_resnest50-d8_4xb4-paper_ade20k-480x480").endswith("480x480.py")
        True

    Raises:
        ConfigError: no packaged config has that name, and no file that path; the message has the nearest names.
    """
    name = str(name)
    if name in _config_files():
        return str(_config_files()[name])
    if name.endswith((".yaml", ".yml", ".py")) and Path(name).is_file():
        return name
    hint = did_you_mean(Path(name).stem, _config_files(), "`resnest-backbones list --configs` prints the names")
    raise ConfigError(f"name must be a config file or the name of a config, got {name!r}; {hint}")


def framework_of(name: str | PathLike[str]) -> str:
    """Return ``detectron2`` or ``mmseg``, whose config it is.

    A YAML file is Detectron2's; of Python files, a LazyConfig imports what it changes.

    Args:
        name: of a packaged config, or the path of a config file.

    Examples:
        >>> framework_of("fcn_resnest50-d8_4xb4-paper_ade20k-480x480")
        'mmseg'

    Raises:
        ConfigError: there is no such config, or the file is not Python.
    """
    file = Path(get_config_file(name))
    if file.suffix != ".py":
        return "detectron2"
    try:
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a config: {error}") from error
    modules = {node.module or "." * node.level for node in nodes if isinstance(node, ast.ImportFrom)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    of_mmengine = "_base_" in names or any(module.startswith(("mmengine", "mmseg")) for module in modules)
    return "detectron2" if modules and not of_mmengine else "mmseg"


def get_config(name: str | PathLike[str]) -> Any:
    """Return a config, resolved: what its framework works with.

    Args:
        name: of a packaged config, or the path of a config file.

    Returns:
        For Detectron2 a ``CfgNode`` with the keys of ``add_resnest_config`` (YAML), or the ``DictConfig`` of a
        LazyConfig (``.py``); for MMSegmentation an ``mmengine.config.Config``. It is the caller's own to change.

    Raises:
        ConfigError: there is no such config.
        ImportError: the config's framework is not installed.
    """
    file = get_config_file(name)
    if framework_of(name) == "mmseg":
        from mmengine.config import Config

        import resnest_backbones.mmseg  # noqa: F401  (registers what the config names)

        return Config.fromfile(file)
    import resnest_backbones.detectron2  # noqa: F401  (likewise)
    from resnest_backbones.detectron2.options import load_lazy_config, load_yaml_config

    return load_lazy_config(file) if file.endswith(".py") else load_yaml_config(file)


def get(name: str | PathLike[str], pretrained_backbone: bool = True, *, trained: bool = False) -> nn.Module:
    """Build the model of a config, in training mode; detectors on the GPU if there is one, all else on the CPU.

    Args:
        name: of a packaged config, or the path of a config file.
        pretrained_backbone: fill the backbone with the weights that the recipe starts from, downloaded if they are
            missing in the cache; otherwise everything is random.
        trained: fill the whole model from the recipe's published file instead, which ``list_trained`` must name.

    Raises:
        ConfigError: there is no such config, or its published file cannot be fetched.
        ImportError: the config's framework is not installed.
        WeightsError: published weights could not be downloaded.
        CheckpointError: those of a ResNet baseline could not be read.
    """
    build = _build_segmentor if framework_of(name) == "mmseg" else _build_detector
    if trained:
        get_record(str(name))
    return build(get_config(name), pretrained_backbone, f"{SCHEME}{name}" if trained else "")


def _build_segmentor(cfg: Any, pretrained_backbone: bool, checkpoint: str) -> nn.Module:
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from resnest_backbones.mmseg.checkpoint import check_fills, load_segmentor

    init_default_scope("mmseg")
    if checkpoint or not pretrained_backbone:
        cfg.model.backbone.init_cfg = None
        cfg.model.pretrained = None
    model: nn.Module = MODELS.build(cfg.model)
    model.init_weights()  # type: ignore[operator]
    if checkpoint:
        check_fills(model, load_segmentor(model, checkpoint)["state_dict"], checkpoint)
    return model


def _build_detector(cfg: Any, pretrained_backbone: bool, checkpoint: str) -> nn.Module:
    from detectron2.config import CfgNode, instantiate
    from detectron2.modeling import build_model

    from resnest_backbones.acceleration import resolve_device
    from resnest_backbones.detectron2 import ResNeStCheckpointer

    device = resolve_device()
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = device
        model: nn.Module = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    else:
        model = instantiate(cfg.model).to(device)
        weights = cfg.train.init_checkpoint
    if checkpoint or (pretrained_backbone and weights):
        checkpointer = ResNeStCheckpointer(model)
        checkpointer.require_whole = bool(checkpoint)
        checkpointer.load(checkpoint or weights)
    return model
