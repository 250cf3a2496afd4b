"""MMSegmentation's segmentors: from pixels to the scores of the classes at each pixel.

Normalization and the change of channels' order, done by the data preprocessor, are part of the file; how the test
pipeline resizes an image, and the sliding window if there is one, are in the metadata.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import wrappers
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

import resnest_backbones.mmseg  # noqa: F401  (registers what configs name)
from resnest_backbones.errors import ExportError
from resnest_backbones.export.models import SEGMENTATION, BuiltModel, Exportable
from resnest_backbones.mmseg.checkpoint import check_fills, load_segmentor
from resnest_backbones.mmseg.config import fit_heads, inner_datasets, load_config, type_name
from resnest_backbones.mmseg.engine.infer import classes_and_palette, loads_labels

_AXES = {0: "batch", 2: "height", 3: "width"}
_SIZE = (512, 512)
# Steps of a test pipeline that do not change pixels.
_NEUTRAL = ("LoadImageFromFile", "PackSegInputs")
_RESIZE_KEYS = ("type", "scale", "keep_ratio", "interpolation", "backend")


class _Scores(nn.Module):
    """A segmentor from pixels (N, 3, H, W), as the pipeline packs them, to scores (N, classes, H, W)."""

    model: Any

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor]:
        preprocessor = self.model.data_preprocessor
        x = images.flip(1) if preprocessor._channel_conversion else images
        if preprocessor._enable_normalize:
            x = (x - preprocessor.mean) / preprocessor.std
        height, width = x.shape[2:]
        divisor = (preprocessor.test_cfg or {}).get("size_divisor", 1)
        if divisor > 1:
            x = functional.pad(x, (0, -width % divisor, 0, -height % divisor), value=preprocessor.pad_val)
        with _resize_without_warnings():
            scores = self.model.decode_head(self.model.extract_feat(x))
        align = self.model.align_corners
        scores = functional.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=align)
        return (scores[:, :, :height, :width] if divisor > 1 else scores,)


@contextmanager
def _resize_without_warnings() -> Iterator[None]:
    """Turn off a warning of MMSegmentation's ``resize``: for it, sizes become integers, which would fix them."""
    defaults = wrappers.resize.__defaults__
    wrappers.resize.__defaults__ = (*defaults[:-1], False)
    try:
        yield
    finally:
        wrappers.resize.__defaults__ = defaults


def _with_open_upsampling(model: nn.Module) -> nn.Module:
    """Replace MMSegmentation's ``Upsample``, which makes its size integers and would so fix it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is wrappers.Upsample and not child.size:
                own: Any = child
                plain = nn.Upsample(scale_factor=own.scale_factor, mode=own.mode, align_corners=own.align_corners)
                setattr(parent, name, plain)
    return model


def export_segmentor(
    model: Any,
    size: Sequence[int] | None = None,
    *,
    fixed: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Exportable:
    """Return a segmentor, ready to be exported.

    Args:
        model: MMSegmentation's ``EncoderDecoder``.
        size: height and width of the images that it is traced with; 512 x 512 if None.
        fixed: the file takes exactly two images of that size, instead of any number and size.
        metadata: what the model itself does not know: names of classes, how to resize the image.

    Returns:
        Images (N, 3, H, W) with values 0..255, in the order of channels in the metadata -> ``scores``,
        (N, classes, H, W), before softmax or sigmoid.

    Raises:
        ExportError: this kind of segmentor cannot be exported.
    """
    if type(model) is not EncoderDecoder:
        raise ExportError(f"only MMSegmentation's EncoderDecoder can be exported, got {type(model).__name__}")
    head = type(model.decode_head)
    if head.predict is not BaseDecodeHead.predict or head.predict_by_feat is not BaseDecodeHead.predict_by_feat:
        raise ExportError(f"{head.__name__} overrides how features become scores and cannot be exported")
    slides = model.test_cfg.get("mode", "whole") == "slide"
    padding = model.data_preprocessor.test_cfg or {}
    if padding.get("size") or (padding and slides):
        raise ExportError(f"data_preprocessor.test_cfg pads images in a way that cannot be exported: {dict(padding)}")
    facts: dict[str, Any] = {
        "task": SEGMENTATION,
        "channel_order": "BGR",  # of MMCV's loader
        "align_corners": bool(model.align_corners),
        **(metadata or {}),
    }
    if model.out_channels == 1:
        facts["threshold"] = float(model.decode_head.threshold)
    if slides:
        facts["window"] = {"size": list(model.test_cfg.crop_size), "stride": list(model.test_cfg.stride)}
    generator = torch.Generator().manual_seed(0)
    return Exportable(
        _Scores(_with_open_upsampling(copy.deepcopy(model))).cpu().float().eval(),
        "images",
        ("scores",),
        torch.randint(0, 256, (2, 3, *(size or _SIZE)), generator=generator).float(),
        {} if fixed else _AXES,
        facts,
    )


def build(
    file: str, checkpoint: str | None, *, options: Sequence[str] = (), classes: Sequence[str] | None = None
) -> BuiltModel:
    """Build a segmentor from a config and a checkpoint; see ``models.build_model``."""
    cfg = load_config(file, options)
    init_default_scope(cfg.get("default_scope", "mmseg"))
    if classes is not None:
        fit_heads(cfg, len(classes))
    cfg.model.backbone.init_cfg = None  # the checkpoint has all weights
    model: Any = MODELS.build(cfg.model)
    content: Mapping[str, Any] = {}
    if checkpoint is not None:
        content = load_segmentor(model, checkpoint, classes)
        check_fills(model, content["state_dict"], checkpoint)
    names, palette = classes_and_palette(classes, cfg, content)
    if len(names) != model.num_classes:
        raise ExportError(
            f"the model has {model.num_classes} classes but {len(names)} names: pass a file of class names with "
            "--classes"
        )
    facts = {
        "classes": list(names),
        "palette": [list(map(int, color)) for color in palette],
        "resize": _resize_of(inner_datasets(cfg.test_dataloader.dataset)[0].pipeline),
    }
    return BuiltModel(model.eval(), partial(export_segmentor, model, metadata=facts))


def _resize_of(pipeline: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how a test pipeline resizes images; None if it does not.

    Raises:
        ExportError: it has a step that changes the image in another way.
    """
    found: dict[str, Any] | None = None
    for step in pipeline:
        name = type_name(step)
        if name in _NEUTRAL or loads_labels(step):
            continue
        if name != "Resize" or found or "scale" not in step or set(step) - set(_RESIZE_KEYS):
            raise ExportError(f"the test pipeline has a step that cannot be exported: {dict(step)}")
        width, height = step["scale"]
        found = {
            "scale": [int(width), int(height)],
            "keep_ratio": bool(step.get("keep_ratio", False)),
            "backend": step.get("backend", "cv2"),
        }
        if step.get("interpolation", "bilinear") != "bilinear":
            raise ExportError(f"the test pipeline has a step that cannot be exported: {dict(step)}")
    return found
