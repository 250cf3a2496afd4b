"""A trained model, found by its name or folder: from an RGB image to the objects or the label map in it.

Bringing results back to the image's size follows Detectron2's ``detector_postprocess`` and MMSegmentation's
``slide_inference``, so that an exported file needs neither framework.

Shapes: H, W height and width in pixels; M detections; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import clip_boxes_to_image

from resnest_backbones.acceleration import resolve_device
from resnest_backbones.choices import SUFFIXES
from resnest_backbones.data import palette_of
from resnest_backbones.errors import ConfigError, ExportError, did_you_mean
from resnest_backbones.export import formats
from resnest_backbones.export.models import DETECTION, SEGMENTATION, build_model
from resnest_backbones.export.preprocess import prepare_image
from resnest_backbones.model_zoo import RECIPES, list_trained
from resnest_backbones.outputs import find_training
from resnest_backbones.weights import SCHEME


@dataclass(frozen=True)
class Detections:
    """Objects in an image, sorted by score, the highest first.

    Attributes:
        boxes: (M, 4), left, top, right, bottom in pixels of the image.
        classes: (M,), indices of the names.
        scores: (M,), 0 to 1.
        masks: (H, W) of the image for each object, bool; None if the network predicts boxes only.
        names: of the classes of the objects.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: Sequence[np.ndarray] | None
    names: Sequence[str] = ()


@dataclass(frozen=True)
class LabelMap:
    """The class of each pixel: ``labels`` (H, W), indices of ``names``."""

    labels: np.ndarray
    names: Sequence[str] = ()


class Predictor:
    """A detector or segmentor that takes images.

    Args:
        run: the network's input tensor -> its outputs (``export.Loaded.run``).
        metadata: of the network (``export.Exportable``), with the names of the ``outputs``.
        module: the network in PyTorch; None for an exported file.

    Attributes:
        task: ``detection`` or ``segmentation``.
        classes: names.
        palette: their colors, [R, G, B] in 0..255: those of the dataset that the network was trained on, or ours.
        module: as above.

    Raises:
        ExportError: the network is neither a detector nor a segmentor.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Sequence[Tensor]],
        metadata: Mapping[str, Any],
        module: torch.nn.Module | None = None,
    ) -> None:
        self.task: str = metadata["task"]
        if self.task not in (DETECTION, SEGMENTATION):
            raise ExportError(f"the network must be a detector or a segmentor, got a {self.task}")
        self.classes: list[str] = list(metadata["classes"])
        self.palette: Sequence[Sequence[int]] = metadata.get("palette") or palette_of(self.classes)
        self.metadata = metadata
        self.module = module
        self._run = run

    @classmethod
    def from_file(cls, file: str | Path, *, runtime: str = "onnxruntime") -> Predictor:
        """Load an exported file; ``runtime`` is what runs an ONNX file, ``onnxruntime`` or ``openvino``.

        Raises:
            ExportError: ``export.save`` did not write it, it holds a trunk alone, or the runtime cannot run it.
            ImportError: the runtime is not installed.
        """
        loaded = formats.load(file, runtime=runtime)
        return cls(loaded.run, loaded.metadata)

    @classmethod
    def from_config(
        cls,
        config: str,
        checkpoint: str,
        *,
        framework: str | None = None,
        options: Sequence[str] = (),
        classes: str | None = None,
        device: str | None = None,
    ) -> Predictor:
        """Build the model of a config and fill it from a checkpoint; arguments as in ``export.models.build_model``.

        It computes on ``device``, or on a GPU if there is one.

        Raises:
            ConfigError: there is no such config.
            ExportError: this kind of model cannot be exported, or the config cannot be used with the options.
            DatasetError: the class file is wrong.
            CheckpointError: the checkpoint does not fill the model.
            ImportError: the framework is not installed.
        """
        device = resolve_device(device)
        built = build_model(config, checkpoint, framework=framework, options=options, classes=classes)
        exportable = built.exportable()
        module = exportable.module.to(device)
        metadata = {**exportable.metadata, "outputs": list(exportable.output_names)}
        return cls(lambda x: [value.cpu() for value in module(x.to(device))], metadata, module)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, min_score: float = 0.0) -> Detections | LabelMap:
        """Predict.

        Args:
            image: (H, W, 3), uint8 RGB.
            min_score: leave out detections below it.
        """
        return self._detect(image, min_score) if self.task == DETECTION else self._segment(image)

    def _detect(self, image: np.ndarray, min_score: float) -> Detections:
        x, size = prepare_image(image, self.metadata)
        found = dict(zip(self.metadata["outputs"], self._run(x), strict=True))
        (height, width), (from_height, from_width) = image.shape[:2], size
        scales = found["boxes"].new_tensor([width / from_width, height / from_height] * 2)
        boxes = clip_boxes_to_image(found["boxes"] * scales, (height, width))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (found["scores"] >= min_score)
        order = torch.argsort(found["scores"], descending=True, stable=True)
        order = order[kept[order]]
        masks = None
        if "masks" in found:
            masks = [paste_mask(found["masks"][i, 0], boxes[i], image.shape[:2]) for i in order]
        classes = found["classes"][order].numpy()
        names = [self.classes[index] for index in classes]
        return Detections(boxes[order].numpy(), classes, found["scores"][order].numpy(), masks, names)

    def _segment(self, image: np.ndarray) -> LabelMap:
        images, _ = prepare_image(image, self.metadata)
        window = self.metadata.get("window")
        scores = self._scores(images) if window is None else scores_by_windows(self._scores, images, window)
        align = self.metadata["align_corners"]
        scores = functional.interpolate(scores, image.shape[:2], mode="bilinear", align_corners=align)[0]
        threshold = self.metadata.get("threshold")
        if threshold is not None:  # of a single class
            return LabelMap((scores[0].sigmoid() > threshold).long().numpy(), self.classes)
        return LabelMap(scores.argmax(dim=0).numpy(), self.classes)

    def _scores(self, images: Tensor) -> Tensor:
        return self._run(images)[0]


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    options: Sequence[str] = (),
    classes: str | None = None,
    device: str | None = None,
    runtime: str = "onnxruntime",
) -> Predictor:
    """Load a trained model for prediction.

    Args:
        model: a recipe that ``model_zoo.list_trained`` names, whose weights are downloaded; the output folder of a
            training (``OUTPUT_DIR`` of Detectron2, ``work_dir`` of MMSegmentation); or a file of ``tools/export.py``.
        checkpoint: another one than the recipe's published file, or than the last in the folder.
        options: config overrides, in the framework's syntax; not for an exported file.
        classes: a file with the classes' names, where the model does not hold them; not for an exported file.
        device: ``cpu``, ``cuda:1``; by default a GPU if there is one. An exported file runs on the CPU.
        runtime: what runs an ONNX file, ``onnxruntime`` or ``openvino``.

    Returns:
        A callable: an RGB image (H, W, 3), uint8 -> ``Detections`` or a ``LabelMap``, as NumPy arrays.

    Raises:
        ConfigError: there is no such model, or the folder holds no finished checkpoint.
        ResNeStError: the model cannot be loaded; see ``Predictor.from_config`` and ``from_file``.

    Examples:
        >>> from resnest_backbones import predict
        >>> predictor = predict.load("output")  # doctest: +SKIP
        >>> predictor(image).names  # doctest: +SKIP
        ['cat', 'dog']
    """
    if str(model).endswith(tuple(SUFFIXES.values())):
        return Predictor.from_file(model, runtime=runtime)
    config, checkpoint = find_model(model, checkpoint)
    return Predictor.from_config(config, checkpoint, options=options, classes=classes, device=device)


def find_model(model: str | Path, checkpoint: str | Path | None = None) -> tuple[str, str]:
    """Return config and checkpoint of a recipe, or of the output folder of a training; arguments as in ``load``."""
    if Path(model).is_dir():
        config, found = map(str, find_training(Path(model)))
    elif str(model) in RECIPES:
        config, found = str(model), f"{SCHEME}{model}"
    else:
        hint = did_you_mean(str(model), list_trained(), "`resnest-backbones list --trained` prints the names")
        raise ConfigError(
            f"a model must be a trained recipe, an output folder or an exported file, got {model}; {hint}"
        )
    return config, str(checkpoint or found)


def paste_mask(mask: Tensor, box: Tensor, size: Sequence[int], threshold: float = 0.5) -> np.ndarray:
    """Paste the mask of an object into its image.

    Args:
        mask: (S, S), probabilities in the frame of the box.
        box: (4,), left, top, right, bottom in pixels.
        size: height and width of the image.
        threshold: probability from which on a pixel belongs to the object.

    Returns:
        (height, width), bool; pixels are sampled at their centers, as in Detectron2's ``paste_masks_in_image``.
    """
    height, width = size
    left, top = (max(int(value) - 1, 0) for value in box[:2].floor())
    right, bottom = (min(int(value) + 1, side) for value, side in zip(box[2:].ceil(), (width, height), strict=True))
    x = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
    sampled = functional.grid_sample(mask[None, None], grid[None].to(mask.dtype), align_corners=False)
    pasted = np.zeros((height, width), dtype=bool)
    pasted[top:bottom, left:right] = (sampled[0, 0] >= threshold).numpy()
    return pasted


def scores_by_windows(run: Callable[[Tensor], Tensor], images: Tensor, window: Mapping[str, Sequence[int]]) -> Tensor:
    """Run a segmentor on overlapping windows; where they overlap, the scores are averaged.

    Args:
        run: images (N, 3, h, w) -> scores (N, C, h, w).
        images: (N, 3, H, W).
        window: ``size`` and ``stride``, each height and width; the last windows end where the image does.
    """
    rows, columns = (
        _spans(side, size, stride)
        for side, size, stride in zip(images.shape[2:], window["size"], window["stride"], strict=True)
    )
    count = images.new_zeros(1, 1, *images.shape[2:])
    total = torch.zeros(())
    for top, bottom in rows:
        for left, right in columns:
            scores = run(images[:, :, top:bottom, left:right])
            if not total.ndim:
                total = scores.new_zeros(*scores.shape[:2], *images.shape[2:])
            total[:, :, top:bottom, left:right] += scores
            count[:, :, top:bottom, left:right] += 1
    return total / count


def _spans(side: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Return where the windows along a side begin and end."""
    number = max(side - size + stride - 1, 0) // stride + 1
    ends = [min(i * stride + size, side) for i in range(number)]
    return [(max(end - size, 0), end) for end in ends]
