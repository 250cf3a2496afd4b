"""The evaluation of the paper's segmentors, which was PyTorch-Encoding's multi-scale evaluation.

Shapes: C channels of the image, K classes, H x W pixels of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from resnest_backbones.models.arguments import check_positive

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@MODELS.register_module()
class PaperTTAModel(BaseTTAModel):
    """A segmentor that predicts as in the published evaluation: over scales, mirrored, in windows.

    The normalized image is resized, for each scale, until its long side is ``ceil(base_size * scale)``, and cut into
    windows. A window scores ``exp(logits + mirrored logits of the mirrored window)``; windows are averaged where they
    overlap, resized to the image, and added up over the scales. A last window that does not fit is padded with black,
    while MMSegmentation's sliding window would move back.

    It makes the augmentations itself: the pipeline in front of it only loads::

        tta_model = dict(type="PaperTTAModel")
        tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]

    Scores are float64, since the exponential of two added logits soon exceeds the range of float32: an image takes at
    least 16 * K * H * W bytes, which is 1 GB for 150 classes and half a million pixels.

    Args:
        module: the segmentor, or its config.
        data_preprocessor: replaces the one in the segmentor's config.
        base_size: long side of the image in pixels at scale 1.
        scales: factors on ``base_size``.
        flip: add the logits of the mirrored windows.
        crop_size: side of the windows in pixels.
        stride: distance of the windows in pixels.

    Raises:
        ValueError: an argument is outside what is allowed; the message names it.
    """

    def __init__(
        self,
        module: nn.Module | dict[str, Any],
        data_preprocessor: nn.Module | dict[str, Any] | None = None,
        *,
        base_size: int = 520,
        scales: Sequence[float] = PAPER_SCALES,
        flip: bool = True,
        crop_size: int = 480,
        stride: int = 320,
    ) -> None:
        for argument, value in (("base_size", base_size), ("crop_size", crop_size), ("stride", stride)):
            check_positive(argument, value)
        if stride > crop_size:
            raise ValueError(
                f"stride must be {crop_size} (crop_size) at most, so that windows leave no gaps, got {stride}"
            )
        super().__init__(module, data_preprocessor)
        if not isinstance(self.module, BaseSegmentor):
            raise ValueError(f"module must be an MMSegmentation segmentor, got a {type(self.module).__name__}")
        if self.module.out_channels < 2:
            raise ValueError(f"module must have two or more output channels, got {self.module.out_channels}")
        self.base_size = base_size
        self.scales = _check_scales(scales)
        self.flip = flip
        self.crop_size = crop_size
        self.stride = stride

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Any]) -> list[SegDataSample]:
        """Predict the images (C, H, W) of a batch, before the data preprocessor; their sizes may differ.

        Returns:
            The data samples with ``seg_logits`` (K, H, W), the summed scores in float64, and ``pred_sem_seg``
            (1, H, W).

        Raises:
            ValueError: an image is augmented already.
        """
        images = data["inputs"]
        samples = data.get("data_samples") or [SegDataSample() for _ in images]
        return [self._predict(image, sample) for image, sample in zip(images, samples, strict=True)]

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """Refuse: there is one prediction per image, and nothing to merge."""
        raise NotImplementedError("PaperTTAModel.test_step merges the augmented predictions of an image itself")

    def _predict(self, image: Tensor, sample: SegDataSample) -> SegDataSample:
        if not isinstance(image, Tensor):
            raise ValueError("the pipeline for PaperTTAModel must return one image per sample, without TestTimeAug, "
                             f"got a {type(image).__name__}")  # fmt: skip
        black, _ = self._normalize(torch.zeros_like(image[:, :1, :1]), SegDataSample())
        image, sample = self._normalize(image, sample)
        size = tuple(sample.metainfo.get("ori_shape", image.shape[1:]))[:2]
        scores = image.new_zeros(self.module.out_channels, *size, dtype=torch.float64)
        for scale in self.scales:
            scores += _resize(self._scores(self._scaled(image, scale), black), size)
        labels = scores.argmax(dim=0, keepdim=True)
        sample.set_data({"seg_logits": PixelData(data=scores), "pred_sem_seg": PixelData(data=labels)})
        return sample

    def _normalize(self, image: Tensor, sample: SegDataSample) -> tuple[Tensor, SegDataSample]:
        """Return the image as the segmentor takes it, on its device, without a preprocessor's padding."""
        height, width = image.shape[1:]
        data = self.module.data_preprocessor({"inputs": [image], "data_samples": [sample]}, False)
        return data["inputs"][0][:, :height, :width], data["data_samples"][0]

    def _scaled(self, image: Tensor, scale: float) -> Tensor:
        """(C, H, W) -> the same with a long side of ``ceil(base_size * scale)``."""
        long, original = math.ceil(self.base_size * scale), max(image.shape[1:])
        # At least one pixel: the original would round thin images to none, and fail.
        return _resize(image, tuple(max(int(side * long / original + 0.5), 1) for side in image.shape[1:]))

    def _scores(self, image: Tensor, black: Tensor) -> Tensor:
        """(C, h, w) and the black pixel (C, 1, 1) -> scores (K, h, w), averaged over the windows."""
        height, width = image.shape[1:]
        tops, lefts = self._offsets(height), self._offsets(width)
        canvas = black.repeat(1, tops[-1] + self.crop_size, lefts[-1] + self.crop_size)
        canvas[:, :height, :width] = image
        scores = canvas.new_zeros(self.module.out_channels, *canvas.shape[1:], dtype=torch.float64)
        count = scores.new_zeros(canvas.shape[1:])
        for top, left in product(tops, lefts):
            window = (..., slice(top, top + self.crop_size), slice(left, left + self.crop_size))
            scores[window] += self._window_scores(canvas[window])
            count[window] += 1
        return (scores / count)[:, :height, :width]

    def _offsets(self, length: int) -> list[int]:
        """Return where windows begin along a side; the last one reaches its end, or beyond."""
        steps = math.ceil(max(length - self.crop_size, 0) / self.stride)
        return [self.stride * i for i in range(steps + 1)]

    def _window_scores(self, window: Tensor) -> Tensor:
        """(C, crop, crop) -> (K, crop, crop)."""
        batch = torch.stack([window, window.flip(-1)] if self.flip else [window])
        logits = self.module.encode_decode(batch, [{"img_shape": batch.shape[2:]}] * len(batch)).double()
        return (logits[0] + logits[1].flip(-1) if self.flip else logits[0]).exp()


def _resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=True)[0]


def _check_scales(scales: object) -> tuple[float, ...]:
    if isinstance(scales, str) or not isinstance(scales, Sequence) or not scales or not all(map(_is_scale, scales)):
        raise ValueError(f"scales must be a sequence of positive numbers, got {scales!r}")
    return tuple(scales)


def _is_scale(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
