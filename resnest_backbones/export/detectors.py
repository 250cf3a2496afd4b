"""Detectron2's detectors: the pixels of one image in, boxes, classes, scores and masks out.

Detectron2's own ``TracingAdapter`` follows them into ONNX and TorchScript, ``detector_program`` into ``torch.export``.
Normalisation and padding are theirs and go into the file; how an image is resized before, and its channels' order,
stand in the metadata. Boxes are in pixels of the image that was given, and masks in the frame of their box, before they
are pasted into the image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import nn

from resnest_backbones.detectron2 import ResNeStCheckpointer, add_resnest_config
from resnest_backbones.errors import ExportError
from resnest_backbones.export.detector_program import FollowableDetector
from resnest_backbones.export.exportable import DETECTION, Exportable
from resnest_backbones.export.models import BuiltModel

_AXES = {1: "height", 2: "width"}
_SIZE = (480, 640)
# The fields of Detectron2's results in the order in which its adapter lays them flat, and their names in a file.
_FIELDS = {"pred_boxes": "boxes", "pred_classes": "classes", "pred_masks": "masks", "scores": "scores"}
_HEADS = ("ROI_HEADS", "RETINANET", "FCOS")


def _detect(model: Any, inputs: list[dict[str, torch.Tensor]]) -> Instances:
    """What a detector finds, before it is brought to the size of the original image."""
    if isinstance(model, GeneralizedRCNN):
        (found,) = model.inference(inputs, do_postprocess=False)
        return found
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    levels = [features[name] for name in model.head_in_features]
    (found,) = model.forward_inference(images, levels, model.head(levels))
    return found


def export_detector(
    model: Any,
    size: Sequence[int] | None = None,
    *,
    fixed: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Exportable:
    """A detector, to be written to a file.

    Args:
        model: Detectron2's ``GeneralizedRCNN`` (Faster, Mask, Cascade R-CNN) or ``RetinaNet``.
        size: height and width of the image to follow it with; 480 x 640 where None.
        fixed: the file shall take images of just that size.
        metadata: what is known beside the model: names of classes, order of channels, how the image is resized.

    Returns:
        An image (3, H, W) with values 0..255 -> ``boxes`` (M, 4), ``classes`` (M,), ``masks`` (M, 1, S, S) of a Mask
        R-CNN, ``scores`` (M,), and ``image_size``, (H, W) as it was given.

    Raises:
        ExportError: the detector is of a kind that is not exported.
    """
    if type(model) not in (GeneralizedRCNN, RetinaNet):
        raise ExportError(
            f"of Detectron2, a GeneralizedRCNN or a RetinaNet can be exported, got {type(model).__name__}"
        )
    if getattr(model, "proposal_generator", model) is None:
        raise ExportError("a detector that is given its proposals cannot be exported: an image alone must do")
    if getattr(getattr(model, "roi_heads", None), "keypoint_on", False):
        raise ExportError("keypoints cannot be exported: Detectron2 finds them in a loop over boxes in compiled Python")
    model = copy.deepcopy(model).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *(size or _SIZE)), generator=generator).float()
    adapter = TracingAdapter(model, [{"image": image}], _detect).eval()
    names = [name for field, name in _FIELDS.items() if field != "pred_masks" or _has_masks(model)]
    facts = {"task": DETECTION, "channel_order": getattr(model, "input_format", None) or "BGR", **(metadata or {})}
    program = partial(_program, model, image, [field for field, name in _FIELDS.items() if name in names], fixed)
    axes = {} if fixed else _AXES
    return Exportable(adapter, "image", (*names, "image_size"), image, axes, facts, program=program, rows=True)


def _program(model: Any, image: torch.Tensor, fields: Sequence[str], fixed: bool) -> nn.Module:
    stride = max(shape.stride for shape in model.backbone.output_shape().values())
    height, width = image.shape[1:]
    if not fixed and min(height, width) <= stride:
        raise ExportError(
            f"the coarsest features, of stride {stride}, are one pixel high or wide for {height} x {width}, and "
            "torch.export gives a file for such images only: follow the detector with a --size of more"
        )
    return FollowableDetector(model, _detect, fields).eval()


def _has_masks(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "roi_heads", None), "mask_on", False))


def build(
    file: str, checkpoint: str | None, *, options: Sequence[str] = (), classes: Sequence[str] | None = None
) -> BuiltModel:
    """A detector from a config and a checkpoint; see ``models.build_model``."""
    model, facts = _from_lazy(file, options, classes) if file.endswith(".py") else _from_yaml(file, options, classes)
    if checkpoint is not None:
        checkpointer = ResNeStCheckpointer(model)
        checkpointer.require_whole = True
        checkpointer.load(checkpoint)
    number = _number_of_classes(model)
    names = facts["classes"] = list(facts["classes"] or [f"class {i}" for i in range(number)])
    if len(names) != number:
        raise ExportError(f"the model has {number} classes, {len(names)} are named: name them by --classes")
    return BuiltModel(model.eval(), partial(export_detector, model, metadata=facts))


def _number_of_classes(model: Any) -> int:
    heads = getattr(model, "roi_heads", None)
    return int(model.num_classes if heads is None else heads.num_classes)


def _from_yaml(file: str, options: Sequence[str], classes: Sequence[str] | None) -> tuple[nn.Module, dict[str, Any]]:
    cfg = get_cfg()
    add_resnest_config(cfg)
    try:
        cfg.merge_from_file(file)
        if classes is not None:
            cfg.merge_from_list([x for head in _HEADS if head in cfg.MODEL for x in _classes_of(head, len(classes))])
        cfg.merge_from_list([word for option in options for word in option.split("=", 1)])
    except (AssertionError, KeyError, ValueError, OSError) as error:
        raise ExportError(f"{file} and --opts cannot be used: {error}") from error
    cfg.MODEL.DEVICE = "cpu"
    facts = {
        "classes": classes or _class_names(cfg.DATASETS.TEST),
        "channel_order": cfg.INPUT.FORMAT,
        "resize": {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST},
    }
    return _build_yaml(cfg), facts


def _classes_of(head: str, number: int) -> tuple[str, int]:
    return f"MODEL.{head}.NUM_CLASSES", number


def _build_yaml(cfg: CfgNode) -> nn.Module:
    model: nn.Module = build_model(cfg)
    return model


def _from_lazy(file: str, options: Sequence[str], classes: Sequence[str] | None) -> tuple[nn.Module, dict[str, Any]]:
    try:
        cfg = LazyConfig.apply_overrides(LazyConfig.load(file), list(options))
        mapper = cfg.dataloader.test.mapper
        resize = next((a for a in mapper.augmentations if _name(a) == "ResizeShortestEdge"), None)
        tested = cfg.dataloader.test.dataset.names
    except Exception as error:  # a LazyConfig is a program
        raise ExportError(f"{file} and --opts cannot be used: {error}") from error
    if classes is not None:
        _fit_lazy(cfg.model, len(classes))
    facts = {
        "classes": classes or _class_names([tested] if isinstance(tested, str) else tested),
        "channel_order": mapper.image_format,
        "resize": None
        if resize is None
        else {"shortest": _shortest(resize.short_edge_length), "longest": resize.get("max_size", 10**9)},
    }
    return instantiate(cfg.model).to("cpu"), facts


def _name(augmentation: Mapping[str, Any]) -> str:
    target = augmentation["_target_"]
    return str(getattr(target, "__name__", target)).rpartition(".")[2]


def _shortest(length: Any) -> int:
    return int(length if isinstance(length, (int, float)) else length[0])


def _fit_lazy(model: DictConfig, number: int) -> None:
    heads = [node for node in (model.get("roi_heads"), model) if node is not None and "num_classes" in node]
    if not heads:
        raise ExportError("the config has neither model.roi_heads.num_classes nor model.num_classes to set")
    heads[0].num_classes = number


def _class_names(datasets: Sequence[str]) -> Sequence[str] | None:
    """Of the first data set, where Detectron2 knows them without its files."""
    for name in datasets:
        if name in MetadataCatalog.list():
            names = MetadataCatalog.get(name).get("thing_classes")
            if names:
                return list(names)
    return None
