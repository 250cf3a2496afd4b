"""Pictures of predictions in a training's TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.utils.visualizer import Visualizer

_MIN_SCORE = 0.5


class DrawPredictions(HookBase):
    """Put pictures of what the model finds in held-out images into the events, which TensorBoard shows.

    Args:
        cfg: ``VIS_PERIOD`` says every how many iterations; ``DATASETS.TEST[0]`` has the images.
        build_loader: makes the loader of a data set for evaluation.
        images: so many, the first.
    """

    def __init__(self, cfg: CfgNode, build_loader: Callable[[CfgNode, str], Iterable[Any]], images: int = 4) -> None:
        self._period = cfg.VIS_PERIOD
        self._metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        self._format = cfg.INPUT.FORMAT
        loader = build_loader(cfg, cfg.DATASETS.TEST[0])
        self._batches: list[Any] = []
        for batch in loader:
            self._batches += batch
            if len(self._batches) >= images:
                break
        self._batches = self._batches[:images]

    def after_step(self) -> None:
        """Called by the trainer after each iteration."""
        done = self.trainer.iter + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        with inference_context(model), torch.no_grad():
            for number, one in enumerate(self._batches):
                image = convert_image_to_rgb(one["image"].permute(1, 2, 0), self._format)
                (found,) = model([{**one, "height": image.shape[0], "width": image.shape[1]}])
                picture = draw_output(image, found, self._metadata)
                self.trainer.storage.put_image(f"prediction_{number}", picture.transpose(2, 0, 1))


def draw_output(image: np.ndarray, found: Mapping[str, Any], metadata: Any) -> np.ndarray:
    """What a model of Detectron2 gives, drawn by Detectron2: boxes, masks and keypoints, or a panoptic or semantic map.

    Args:
        image: (H, W, 3), uint8 RGB.
        found: an output of the model, of this size.
        metadata: of the data set.
    """
    drawing = Visualizer(image, metadata)
    if "panoptic_seg" in found:
        drawn = drawing.draw_panoptic_seg_predictions(found["panoptic_seg"][0].cpu(), found["panoptic_seg"][1])
    elif "instances" in found:
        instances = found["instances"].to("cpu")
        drawn = drawing.draw_instance_predictions(instances[instances.scores >= _MIN_SCORE])
    else:
        drawn = drawing.draw_sem_seg(found["sem_seg"].argmax(dim=0).cpu())
    result: np.ndarray = drawn.get_image()
    return result
