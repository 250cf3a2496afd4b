"""Hooks of a training beside Detectron2's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.visualizer import ColorMode, Visualizer
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim import Optimizer

from resnest_backbones.data import derive_seed
from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer
from resnest_backbones.errors import DivergedError, check_finite, diverged

_FINAL = "model_final"  # as Detectron2's PeriodicCheckpointer has it
_MAX_DRAWN = 4  # images
_MIN_SCORE = 0.5  # of an object that is drawn


class SeedIterations(HookBase):
    """Make the random numbers of each iteration a function of the seed, the process and its number alone."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """Seed all generators."""
        seed_all_rng(derive_seed(self._seed, comm.get_rank(), self.trainer.iter))


class RepeatablePreciseBN(hooks.PreciseBN):
    """Detectron2's precise BN, each time on the same batches, whichever iteration a training was resumed at.

    A variance that is rounded below zero, as that of a constant channel may be, becomes zero: it would make NaN of all
    that the model computes.
    """

    def update_stats(self) -> None:
        """Update the statistics with the loader's first batches."""
        self._data_iter = None
        super().update_stats()
        for norm in get_bn_modules(self._model):
            norm.running_var.clamp_(min=0)


class SaveMissedFinal(HookBase):
    """Write the final checkpoint of a training that was killed between its last periodic one and that.

    Such a training has no iteration left to run, and Detectron2 writes checkpoints only after iterations.
    """

    def __init__(self, checkpointer: ResNeStCheckpointer) -> None:
        self._checkpointer = checkpointer

    def before_train(self) -> None:
        """Write it where it is missing."""
        trainer = self.trainer
        file = Path(self._checkpointer.save_dir) / f"{_FINAL}.pth"
        if trainer.start_iter < trainer.max_iter or file.exists() or not comm.is_main_process():
            return
        trainer.iter = trainer.max_iter - 1  # as it was when the last checkpoint was written
        self._checkpointer.save(_FINAL, iteration=trainer.iter)
        trainer.iter = trainer.start_iter


class StopAtInvalidLoss(HookBase):
    """End a training whose loss is not finite, before that reaches a weight, and name the images of the batch.

    Detectron2 itself names the iteration and the mean losses of all processes, or says that proposals are NaN.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._images: list[str] = []
        model.register_forward_pre_hook(self._remember)
        model.register_forward_hook(self._check)

    @contextmanager
    def explain(self, trainer: TrainerBase) -> Iterator[None]:
        """Add iteration, learning rate and images to an error of Detectron2's own."""
        try:
            yield
        except DivergedError:
            raise
        except FloatingPointError as error:
            raise diverged(str(error), **self._where(trainer)) from error

    def _where(self, trainer: TrainerBase) -> dict[str, Any]:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return {"iteration": trainer.iter, "images": self._images, "rates": rates}

    def _remember(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training:
            self._images = [str(item.get("file_name", "?")) for item in inputs[0]]

    def _check(self, model: nn.Module, inputs: tuple[Any, ...], losses: Any) -> None:
        if model.training and isinstance(losses, dict):
            check_finite({name: value.item() for name, value in losses.items()}, **self._where(self.trainer))


class DrawPredictions(HookBase):
    """Draw what the model finds in the first images of a loader for evaluation, for TensorBoard."""

    def __init__(self, batches: Iterable[list[Any]], metadata: Any, *, image_format: str, period: int) -> None:
        self._metadata = metadata
        self._format = image_format
        self._period = period
        self._inputs = list(islice(chain.from_iterable(batches), _MAX_DRAWN))

    def after_step(self) -> None:
        """Draw after each period and the last iteration."""
        done = self.trainer.iter + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        with inference_context(model), torch.no_grad():
            for number, one in enumerate(self._inputs):
                image = convert_image_to_rgb(one["image"].permute(1, 2, 0), self._format)
                (found,) = model([{**one, "height": image.shape[0], "width": image.shape[1]}])
                drawing = draw_output(image, found, self._metadata)
                self.trainer.storage.put_image(f"prediction_{number}", drawing.transpose(2, 0, 1))


def draw_output(image: np.ndarray, found: Mapping[str, Any], metadata: Any) -> np.ndarray:
    """Draw an output of a model on its image, (H, W, 3) uint8 RGB: objects, or a panoptic or semantic map."""
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.SEGMENTATION)  # colors by class
    if "panoptic_seg" in found:
        drawn = visualizer.draw_panoptic_seg_predictions(found["panoptic_seg"][0].cpu(), found["panoptic_seg"][1])
    elif "instances" in found:
        instances = found["instances"].to("cpu")
        drawn = visualizer.draw_instance_predictions(instances[instances.scores >= _MIN_SCORE])
    else:
        drawn = visualizer.draw_sem_seg(found["sem_seg"].argmax(dim=0).cpu())
    result: np.ndarray = drawn.get_image()
    return result
