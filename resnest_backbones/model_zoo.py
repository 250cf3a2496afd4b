"""Short names -> packaged configs -> models, and what was published of them (``RECIPES``)."""

from __future__ import annotations

import builtins
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnest_backbones.errors import CheckpointError
from resnest_backbones.recipes import METRICS, RECIPES, Recipe
from resnest_backbones.weights import PublishedFile

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "METRICS",
    "RECIPES",
    "PublishedFile",
    "PublishedFileError",
    "Recipe",
    "config_root",
    "get",
    "get_config",
    "get_config_file",
    "list",
]

PublishedFileError = CheckpointError  # its documented name

_PACKAGE = Path(__file__).parent


def config_root() -> Path:
    """The folder that holds ``detectron2/`` and ``mmseg/`` configs: in the installed package or in the checkout."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


@cache
def _config_files() -> dict[str, Path]:
    """Short names -> config files that are no base of others, Detectron2's first."""
    root = config_root()
    files: builtins.list[Path] = []
    for folder in ("detectron2", "mmseg"):
        files += sorted(f for f in (root / folder).rglob("*") if f.suffix in (".yaml", ".py"))
    return {file.stem: file for file in files if "_base_" not in file.relative_to(root).parts}


def list() -> builtins.list[str]:
    """Names of all packaged configs, Detectron2's first; those with published figures are keys of ``RECIPES``.

    Examples:
        >>> "faster_rcnn_resnest50_fpn_1x" in list()
        True
    """
    return [*_config_files()]


def get_config_file(name: str) -> str:
    """The path of a packaged config by its short name, such as ``faster_rcnn_resnest50_fpn_1x``.

    Examples:
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


def _framework(file: str) -> str:
    return Path(file).relative_to(config_root()).parts[0]


def get_config(name: str) -> Any:
    """A packaged config, resolved: what its framework works with.

    Returns:
        For Detectron2 a ``CfgNode`` with the keys of ``add_resnest_config`` (YAML), or the ``DictConfig`` of a
        LazyConfig (``.py``); for MMSegmentation an ``mmengine.config.Config``. It is the caller's own to change.

    Raises:
        ValueError: no packaged config has that name.
        ImportError: the config's framework is not installed.
    """
    file = get_config_file(name)
    if _framework(file) == "mmseg":
        from mmengine.config import Config

        import resnest_backbones.mmseg  # noqa: F401  (registers what the config names)

        return Config.fromfile(file)
    from detectron2.config import LazyConfig, get_cfg

    from resnest_backbones.detectron2 import add_resnest_config

    if file.endswith(".py"):
        return LazyConfig.load(file)
    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(file)
    return cfg


def get(name: str, pretrained_backbone: bool = True) -> nn.Module:
    """The model of a packaged config, in training mode; detectors on the GPU where there is one, all else on the CPU.

    Args:
        name: of the config.
        pretrained_backbone: fill the backbone with the weights that the recipe starts from, downloaded where they are
            not in the cache; otherwise everything is random.

    Raises:
        ValueError: no packaged config has that name.
        ImportError: the config's framework is not installed.
        resnest_backbones.weights.WeightsError: the weights of a ResNeSt cannot be had.
        resnest_backbones.checkpoint.CheckpointError: those of a ResNet baseline cannot be had.
    """
    cfg = get_config(name)
    if _framework(get_config_file(name)) == "mmseg":
        return _build_segmentor(cfg, pretrained_backbone)
    return _build_detector(cfg, pretrained_backbone)


def _build_segmentor(cfg: Any, pretrained_backbone: bool) -> nn.Module:
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    if not pretrained_backbone:
        cfg.model.backbone.init_cfg = None
        cfg.model.pretrained = None
    model: nn.Module = MODELS.build(cfg.model)
    model.init_weights()  # type: ignore[operator]
    return model


def _build_detector(cfg: Any, pretrained_backbone: bool) -> nn.Module:
    import torch
    from detectron2.config import CfgNode, instantiate
    from detectron2.modeling import build_model

    from resnest_backbones.detectron2 import ResNeStCheckpointer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(cfg, CfgNode):
        cfg.MODEL.DEVICE = device
        model: nn.Module = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    else:
        model = instantiate(cfg.model).to(device)
        weights = cfg.train.init_checkpoint
    if pretrained_backbone and weights:
        ResNeStCheckpointer(model).load(weights)
    return model
