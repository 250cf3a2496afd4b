"""What ``tools/infer_seg.py`` does: label maps of images, as files and drawn over the images, with a legend."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.utils import track_iter_progress
from mmseg.registry import DATASETS, MODELS
from PIL import Image
from torch import nn

from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.cli import print_next
from resnest_backbones.data import IMAGE_SUFFIXES, find_class_file, make_palette, read_classes
from resnest_backbones.errors import ConfigError, add_verbose
from resnest_backbones.export.label_maps import draw_label_map
from resnest_backbones.mmseg.checkpoint import check_fills, load_segmentor
from resnest_backbones.mmseg.engine.own_data import fit_heads
from resnest_backbones.mmseg.engine.run_setup import inner_datasets, type_name
from resnest_backbones.mmseg.engine.train import (
    add_config_options,
    check_arguments,
    load_config,
    use_test_time_augmentation,
)


def build_infer_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Predict label maps, and draw them over the images.",
        epilog="example: python tools/infer_seg.py CONFIG CHECKPOINT photo.jpg folder/ --out-dir predictions",
    )
    add_verbose(parser)
    parser.add_argument("config", help="the config file")
    parser.add_argument("checkpoint", help="the checkpoint file")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE_OR_FOLDER", help=f"folders: all {', '.join(IMAGE_SUFFIXES)}"
    )
    parser.add_argument("--out-dir", required=True, metavar="DIR", help="gets drawn/NAME.png and label_maps/NAME.png")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the colours, 0 to 1 (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: tta_model and tta_pipeline")
    add_config_options(parser)
    return parser


def infer(args: argparse.Namespace) -> list[str]:
    """Predict and draw as the options of ``build_infer_parser`` say.

    Label maps are uint8 PNGs of the images' size in the convention of ADE20K's annotations: label n is the n-th class.

    Returns:
        What went wrong with single images, one message each; all others are done.

    Raises:
        ConfigError: an option or the config does not allow it; there are no images, or several of one name.
        CheckpointError: the checkpoint is no such, or does not fill the model.
        DatasetError: the class file is missing or wrong.
    """
    check_arguments(args)
    if not 0 <= args.opacity <= 1:
        raise ConfigError(f"--opacity must be from 0 to 1, got {args.opacity}")
    files = find_images(args.images)
    predict = Predictor(args)
    folders = {name: Path(args.out_dir, name) for name in ("drawn", "label_maps")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for file in track_iter_progress(files):
        try:
            image = read_image(file)
        except ValueError as error:
            problems.append(str(error))
            continue
        labels = predict(file)
        drawn = draw_label_map(image, labels, predict.classes, predict.palette, opacity=args.opacity)
        _save_png(drawn, folders["drawn"] / f"{file.stem}.png")
        _save_png(Image.fromarray((labels + 1).astype(np.uint8)), folders["label_maps"] / f"{file.stem}.png")
    print()  # the progress bar stays in its line
    print(f"written: {folders['drawn']}, {folders['label_maps']}")
    print_next("write the model for other programs", "tools/export.py", args.config, args.checkpoint)
    return problems


def _save_png(image: Image.Image, file: Path) -> None:
    write_atomically(file, lambda stream: image.save(stream, "PNG"))


def find_images(names: Sequence[str]) -> list[Path]:
    """The files among the names, and the images in the folders among them.

    Raises:
        ConfigError: one is neither, there is no image, or two would have results of the same name.
    """
    files: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"IMAGE_OR_FOLDER must be there, got {path}")
    if not files:
        raise ConfigError(f"IMAGE_OR_FOLDER must have images ({', '.join(IMAGE_SUFFIXES)}), got {', '.join(names)}")
    first: dict[str, Path] = {}
    for file in files:
        if first.setdefault(file.stem, file) is not file:
            raise ConfigError(f"the names of images must differ, got {first[file.stem]} and {file}")
    return files


def read_image(file: Path) -> np.ndarray:
    """An image (H, W, 3), uint8 RGB, turned as MMCV's loader of the pipelines turns it.

    Raises:
        ValueError: it cannot be read; the message names it.
    """
    try:
        image = mmcv.imread(str(file), channel_order="rgb")
    except Exception as error:  # OpenCV has errors of its own for damaged files
        raise ValueError(f"{file} cannot be read as an image") from error
    if image is None:
        raise ValueError(f"{file} cannot be read as an image")
    return image


class Predictor:
    """A segmentor with its test pipeline, and the names and colours of its classes.

    Attributes:
        classes: names; index n is label n + 1 of the files.
        palette: their colours, [R, G, B] in 0..255.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        cfg = load_config(args)
        init_default_scope(cfg.get("default_scope", "mmseg"))
        named = args.classes or (find_class_file(args.data_root) if args.data_root else None)
        if named:
            fit_heads(cfg, len(read_classes(named)))
        if args.tta:
            use_test_time_augmentation(cfg)
        self._pipeline = Compose(_without_labels(inner_datasets(cfg.test_dataloader.dataset)[0].pipeline))
        model = MODELS.build(cfg.model)
        segmentor: nn.Module = model.module if args.tta else model
        content = load_segmentor(segmentor, args.checkpoint)
        check_fills(segmentor, content["state_dict"], args.checkpoint)
        self._model = model.to(args.device or get_device()).eval()
        self.classes, self.palette = names_and_colours(named, cfg, content.get("meta", {}))
        if len(self.classes) != segmentor.num_classes:
            raise ConfigError(
                f"the model has {segmentor.num_classes} classes, {len(self.classes)} are named: name a file of them by "
                "--classes"
            )

    @torch.no_grad()
    def __call__(self, file: Path) -> np.ndarray:
        """The label map (H, W) of an image file; labels count from 0."""
        sample = self._pipeline({"img_path": str(file)})
        (result,) = self._model.test_step(pseudo_collate([sample]))
        return result.pred_sem_seg.data.squeeze(0).cpu().numpy()


def _without_labels(pipeline: Any) -> Any:
    """A pipeline without the steps that load annotations, in branches of test-time augmentation too."""
    if isinstance(pipeline, Mapping):
        return {key: _without_labels(value) for key, value in pipeline.items()}
    if isinstance(pipeline, list):
        steps = [step for step in pipeline if not (isinstance(step, Mapping) and _loads_labels(step))]
        return [left for step in steps if (left := _without_labels(step)) != []]
    return pipeline


def _loads_labels(step: Mapping[str, Any]) -> bool:
    return type_name(step).startswith("Load") and type_name(step).endswith("Annotations")


def names_and_colours(
    class_file: str | Path | None, cfg: Config, meta: Mapping[str, Any]
) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """From the class file, else from the checkpoint, else from the config's data set."""
    if class_file:
        classes = read_classes(class_file)
        return classes, make_palette(len(classes))
    known = meta.get("dataset_meta") or {}
    if not known.get("classes"):
        dataset = inner_datasets(cfg.test_dataloader.dataset)[0]
        known = {**DATASETS.get(dataset.type).METAINFO, **(dataset.get("metainfo") or {})}
    if not known.get("classes"):
        raise ConfigError("neither the checkpoint nor the config names the classes: name a file of them by --classes")
    return known["classes"], known.get("palette") or make_palette(len(known["classes"]))
