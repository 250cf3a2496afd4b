"""Label maps of image files, by a segmentor and the test pipeline of its config."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from torch import nn

from resnest_backbones.acceleration import resolve_device
from resnest_backbones.checkpoint.classes import known_classes
from resnest_backbones.data import palette_of, read_classes
from resnest_backbones.errors import ConfigError
from resnest_backbones.mmseg.checkpoint import check_fills, load_segmentor
from resnest_backbones.mmseg.config import fit_heads, inner_datasets, type_name, use_test_time_augmentation
from resnest_backbones.mmseg.transforms import with_image_reader


class Predictor:
    """A segmentor with its test pipeline, on a GPU if there is one and no other ``device`` is named.

    Attributes:
        classes: names, of the class file, else of the checkpoint, else of the config's dataset; index n is label n + 1
            of annotation files.
        palette: their colors, [R, G, B] in 0..255.

    Raises:
        ConfigError: the config does not allow it, or names other classes than the model has.
        CheckpointError: the file is not a checkpoint, or does not fill the model.
        DatasetError: the class file is missing or wrong.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        *,
        class_file: str | Path | None = None,
        tta: bool = False,
        device: str | None = None,
    ) -> None:
        cfg, device = copy.deepcopy(cfg), resolve_device(device)
        init_default_scope(cfg.get("default_scope", "mmseg"))
        names = read_classes(class_file) if class_file else None
        if names:
            fit_heads(cfg, len(names))
        if tta:
            use_test_time_augmentation(cfg)
        pipeline = inner_datasets(cfg.test_dataloader.dataset)[0].pipeline
        self._pipeline = Compose(with_image_reader(_without_labels(pipeline)))
        model = MODELS.build(cfg.model)
        segmentor: nn.Module = model.module if tta else model
        content = load_segmentor(segmentor, checkpoint, names)
        check_fills(segmentor, content["state_dict"], checkpoint)
        self._model = model.to(device).eval()
        self.classes, self.palette = classes_and_palette(names, cfg, content)
        if len(self.classes) != segmentor.num_classes:
            found = f"the model has {segmentor.num_classes} classes but {len(self.classes)} names"
            raise ConfigError(f"{found}: pass a file of class names with --classes")

    @torch.no_grad()
    def __call__(self, file: str | Path) -> np.ndarray:
        """Return the label map (H, W) of an image file; labels count from 0."""
        sample = self._pipeline({"img_path": str(file)})
        (result,) = self._model.test_step(pseudo_collate([sample]))
        return result.pred_sem_seg.data.squeeze(0).cpu().numpy()


def _without_labels(pipeline: Any) -> Any:
    """Return a pipeline without the steps that load annotations, in branches of test-time augmentation too."""
    if isinstance(pipeline, Mapping):
        return {key: _without_labels(value) for key, value in pipeline.items()}
    if isinstance(pipeline, list):
        steps = [step for step in pipeline if not (isinstance(step, Mapping) and loads_labels(step))]
        return [left for step in steps if (left := _without_labels(step)) != []]
    return pipeline


def loads_labels(step: Mapping[str, Any]) -> bool:
    """Return whether a step of a pipeline loads annotations."""
    return type_name(step).startswith("Load") and type_name(step).endswith("Annotations")


def classes_and_palette(
    names: Sequence[str] | None, cfg: Config, content: Mapping[str, Any]
) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Return names and colors of the classes: those given, else the checkpoint's, else the config's dataset's."""
    if names:
        return names, palette_of(names)
    known = known_classes(content)
    if not known.get("classes"):
        dataset = inner_datasets(cfg.test_dataloader.dataset)[0]
        known = {**DATASETS.get(dataset.type).METAINFO, **(dataset.get("metainfo") or {})}
    if not known.get("classes"):
        raise ConfigError(
            "neither the checkpoint nor the config names the classes: pass a file of class names with --classes"
        )
    return known["classes"], known.get("palette") or palette_of(known["classes"])
