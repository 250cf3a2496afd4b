"""A network and what is known of it, from an RGB image to what is in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnest_backbones.errors import ExportError
from resnest_backbones.export.exportable import DETECTION, SEGMENTATION
from resnest_backbones.export.formats import load
from resnest_backbones.export.models import build_model, framework_of
from resnest_backbones.predict import prepare


@dataclass(frozen=True)
class Detections:
    """Objects in an image, the most certain first.

    Attributes:
        boxes: (M, 4), left, top, right, bottom in pixels of the image.
        classes: (M,), indices of the names.
        scores: (M,), 0 to 1.
        masks: for each object (H, W) of the image, bool; None where the network finds boxes only.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: Sequence[np.ndarray] | None


@dataclass(frozen=True)
class LabelMap:
    """The class of each pixel: ``labels`` (H, W), indices of the names."""

    labels: np.ndarray


class Predictor:
    """Looks at images.

    Args:
        run: the network's input tensor -> its outputs (``export.Loaded.run``).
        metadata: what an exported file says of itself (``export.Exportable``).
        module: the network as PyTorch has it; None of an exported file.

    Attributes:
        task: ``detection`` or ``segmentation``.
        classes: names.
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
            raise ExportError(f"a detector or a segmentor is needed to look at images, got a {self.task}")
        self.classes: list[str] = list(metadata["classes"])
        self.metadata = metadata
        self.module = module
        self._run = run

    @classmethod
    def from_file(cls, file: str | Path) -> Predictor:
        """Of an exported file.

        Raises:
            ExportError: it is no such file, or the network of a trunk alone.
        """
        loaded = load(file)
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
        device: str = "cpu",
    ) -> Predictor:
        """Of a config and a checkpoint of either framework; the arguments are those of ``export.models.build_model``.

        Raises:
            ExportError: the model is of a kind that is not exported; or a file or an option is wrong.
            resnest_backbones.checkpoint.CheckpointError: the checkpoint does not fill the model.
            ImportError: the framework is not installed.
        """
        built = build_model(
            config, checkpoint, framework=framework or framework_of(config), options=options, classes=classes
        )
        exportable = built.exportable()
        module = exportable.module.to(device)
        names = {"outputs": list(exportable.output_names)}
        metadata = {**exportable.metadata, **names}
        return cls(lambda x: [value.cpu() for value in module(x.to(device))], metadata, module)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, min_score: float = 0.0) -> Detections | LabelMap:
        """What is in an image.

        Args:
            image: (H, W, 3), uint8 RGB.
            min_score: detections below it are left out.
        """
        return self._detect(image, min_score) if self.task == DETECTION else self._segment(image)

    def _detect(self, image: np.ndarray, min_score: float) -> Detections:
        x, size = prepare.prepare_image(image, self.metadata)
        found = dict(zip(self.metadata["outputs"], self._run(x), strict=True))
        boxes = prepare.scale_boxes(found["boxes"], size, image.shape[:2])
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (found["scores"] >= min_score)
        order = torch.argsort(found["scores"], descending=True, stable=True)
        order = order[kept[order]]
        masks = None
        if "masks" in found:
            masks = [prepare.paste_mask(found["masks"][i, 0], boxes[i], image.shape[:2]) for i in order]
        return Detections(boxes[order].numpy(), found["classes"][order].numpy(), found["scores"][order].numpy(), masks)

    def _segment(self, image: np.ndarray) -> LabelMap:
        images, _ = prepare.prepare_image(image, self.metadata)
        window = self.metadata.get("window")
        scores = self._scores(images) if window is None else prepare.scores_by_windows(self._scores, images, window)
        return LabelMap(
            prepare.labels_of(
                scores,
                image.shape[:2],
                align_corners=self.metadata["align_corners"],
                threshold=self.metadata.get("threshold"),
            )
        )

    def _scores(self, images: Tensor) -> Tensor:
        return self._run(images)[0]
