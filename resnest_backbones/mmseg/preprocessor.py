"""Normalization of images as the published weights expect it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from resnest_backbones.weights import WeightRecord, get_record

_ORDERS = {"RGB": True, "BGR": False}  # whether MMCV's images, which are BGR, must be turned around


@MODELS.register_module()
class ResNeStDataPreProcessor(SegDataPreProcessor):
    """MMSegmentation's preprocessor with mean, standard deviation and channel order of a published weight file.

    Images come in as MMCV's ``LoadImageFromFile`` gives them, (3, H, W) in BGR with values 0 to 255, and go out
    as the record of the weights says: RGB, scaled to [0, 1], normalized. Padding is added to the normalized image; the
    paper's black padding is therefore a transform of the training pipeline.

    Args:
        weights: the weight file, ``NAME`` or ``resnest://NAME``.
        size: height and width that training images are padded to, at the right and the bottom.
        size_divisor: pad to a multiple of it; training needs one of the two.
        pad_val: value of padding in the normalized image.
        seg_pad_val: label of padding.
        test_cfg: ``dict(size=...)`` or ``dict(size_divisor=...)`` for padding in evaluation.

    Raises:
        ValueError: no weights were published under that name, or both sizes are given.
    """

    def __init__(
        self,
        weights: str,
        *,
        size: Sequence[int] | None = None,
        size_divisor: int | None = None,
        pad_val: float = 0,
        seg_pad_val: int = 255,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(weights, str):
            raise ValueError(f"weights must be the name of a published weight file, got {weights!r}")
        if size is not None and size_divisor is not None:
            raise ValueError(f"size must be None if size_divisor is {size_divisor!r}, got {size!r}")
        record = get_record(weights)
        if not isinstance(record, WeightRecord):
            raise ValueError(f"weights must be the name of published ImageNet weights, got {weights!r}")
        super().__init__(
            mean=[255 * value for value in record.mean],
            std=[255 * value for value in record.std],
            bgr_to_rgb=_ORDERS[record.channel_order],
            size=None if size is None else tuple(size),
            size_divisor=size_divisor,
            pad_val=pad_val,
            seg_pad_val=seg_pad_val,
            test_cfg=None if test_cfg is None else dict(test_cfg),
        )
