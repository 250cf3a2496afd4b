"""Detectron2's detectors: from the pixels of one image to boxes, classes, scores and masks.

Detectron2's own ``TracingAdapter`` makes them traceable for ONNX and TorchScript, ``detector_program`` for
``torch.export``. Normalization and padding are part of the file; how to resize an image before, and its order of
channels, are in the metadata. Boxes are in pixels of the input image, and masks in the frame of their box, not yet
pasted into the image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Instances
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from resnest_backbones.checkpoint.classes import as_list, known_classes, match_classes
from resnest_backbones.detectron2 import ResNeStCheckpointer
from resnest_backbones.detectron2.options import load_lazy_config, load_yaml_config, merge_options, name_nearest
from resnest_backbones.errors import ExportError, config_errors
from resnest_backbones.export.detector_program import TraceableDetector
from resnest_backbones.export.models import DETECTION, BuiltModel, Exportable

_AXES = {1: "height", 2: "width"}
_SIZE = (480, 640)
# The fields of Detectron2's results in the order in which its adapter lays them flat, and their names in a file.
_FIELDS = {"pred_boxes": "boxes", "pred_classes": "classes", "pred_masks": "masks", "scores": "scores"}
_HEADS = ("ROI_HEADS", "RETINANET", "FCOS")


def _detect(model: Any, inputs: list[dict[str, torch.Tensor]]) -> Instances:
    """Return the detections before they are scaled to the size of the original image."""
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
    """Return a detector, ready to be exported.

    Args:
        model: Detectron2's ``GeneralizedRCNN`` (Faster, Mask, Cascade R-CNN) or ``RetinaNet``.
        size: height and width of the image that it is traced with; 480 x 640 if None.
        fixed: the file takes only images of that size.
        metadata: what the model itself does not know: names of classes, order of channels, how to resize the image.

    Returns:
        An image (3, H, W) with values 0..255 -> ``boxes`` (M, 4), ``classes`` (M,), ``masks`` (M, 1, S, S) of a Mask
        R-CNN, ``scores`` (M,), and ``image_size``, (H, W) of the input.

    Raises:
        ExportError: this kind of detector cannot be exported.
    """
    if type(model) not in (GeneralizedRCNN, RetinaNet):
        raise ExportError(
            f"only Detectron2's GeneralizedRCNN and RetinaNet can be exported, got {type(model).__name__}"
        )
    if getattr(model, "proposal_generator", model) is None:
        raise ExportError(
            "a detector that needs precomputed proposals cannot be exported: the only input must be an image"
        )
    if getattr(getattr(model, "roi_heads", None), "keypoint_on", False):
        raise ExportError("keypoints cannot be exported: Detectron2 decodes them in a scripted loop over boxes")
    model = copy.deepcopy(model).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *(size or _SIZE)), generator=generator).float()
    adapter = TracingAdapter(model, [{"image": image}], _detect).eval()
    has_masks = getattr(getattr(model, "roi_heads", None), "mask_on", False)
    fields = {field: name for field, name in _FIELDS.items() if field != "pred_masks" or has_masks}
    facts = {"task": DETECTION, "channel_order": getattr(model, "input_format", None) or "BGR", **(metadata or {})}
    program = partial(_program, model, image, [*fields], fixed)
    names = (*fields.values(), "image_size")
    return Exportable(adapter, "image", names, image, {} if fixed else _AXES, facts, program=program, rows=True)


def _program(model: Any, image: torch.Tensor, fields: Sequence[str], fixed: bool) -> nn.Module:
    stride = max(shape.stride for shape in model.backbone.output_shape().values())
    height, width = image.shape[1:]
    if not fixed and min(height, width) <= stride:
        raise ExportError(
            f"the coarsest features, with stride {stride}, are one pixel high or wide for {height} x {width}, and a "
            "torch.export file would accept only such images: use a larger --size"
        )
    return TraceableDetector(model, _detect, fields).eval()


def build(
    file: str, checkpoint: str | None, *, options: Sequence[str] = (), classes: Sequence[str] | None = None
) -> BuiltModel:
    """Build a detector from a config and a checkpoint; see ``models.build_model``."""
    model, facts = _from_lazy(file, options, classes) if file.endswith(".py") else _from_yaml(file, options, classes)
    held: Sequence[str] = ()
    if checkpoint is not None:
        checkpointer = ResNeStCheckpointer(model)
        checkpointer.require_whole = True
        held = as_list(known_classes(checkpointer.load(checkpoint)).get("classes"))
    if classes and sorted(classes) == sorted(held):
        match_classes(held, classes)  # says where their order differs; the model's own holds
        classes = held
    number = int(getattr(model, "roi_heads", model).num_classes)  # type: ignore[arg-type]
    known = [names for names in ([classes] if classes else [held, facts["classes"]]) if names]
    fitting = [names for names in known if len(names) == number]
    if known and not fitting:
        found = f"the model has {number} classes but {len(known[0])} names"
        raise ExportError(f"{found}: pass a file of class names with --classes")
    facts["classes"] = list(fitting[0]) if fitting else [f"class {i}" for i in range(number)]
    return BuiltModel(model.eval(), partial(export_detector, model, metadata=facts))


def _from_yaml(file: str, options: Sequence[str], classes: Sequence[str] | None) -> tuple[nn.Module, dict[str, Any]]:
    cfg = load_yaml_config(file)
    if classes is not None:
        heads = [head for head in _HEADS if head in cfg.MODEL]
        cfg.merge_from_list([x for head in heads for x in (f"MODEL.{head}.NUM_CLASSES", len(classes))])
    merge_options(cfg, [word for option in options for word in option.split("=", 1)])
    cfg.MODEL.DEVICE = "cpu"
    facts = {
        "classes": classes or list(cfg.DATASETS.CLASSES) or _class_names(cfg.DATASETS.TEST),
        "channel_order": cfg.INPUT.FORMAT,
        "resize": {"shortest": cfg.INPUT.MIN_SIZE_TEST, "longest": cfg.INPUT.MAX_SIZE_TEST},
    }
    with config_errors(name_nearest):
        return build_model(cfg), facts


def _from_lazy(file: str, options: Sequence[str], classes: Sequence[str] | None) -> tuple[nn.Module, dict[str, Any]]:
    cfg = load_lazy_config(file, options)
    try:
        mapper = cfg.dataloader.test.mapper
        resize = next((step for step in mapper.augmentations if _name(step) == "ResizeShortestEdge"), None)
        tested = cfg.dataloader.test.dataset.names
    except (AttributeError, OmegaConfBaseException) as error:
        raise ExportError(f"{file} has no dataloader.test like Detectron2's LazyConfigs: {error}") from error
    if classes is not None:
        heads = [node for node in (cfg.model.get("roi_heads"), cfg.model) if node is not None and "num_classes" in node]
        if not heads:
            raise ExportError("the config has neither model.roi_heads.num_classes nor model.num_classes to set")
        heads[0].num_classes = len(classes)
    facts: dict[str, Any] = {
        "classes": classes or _class_names([tested] if isinstance(tested, str) else tested),
        "channel_order": mapper.image_format,
        "resize": None,
    }
    if resize is not None:
        length = resize.short_edge_length
        shortest = int(length if isinstance(length, (int, float)) else length[0])
        facts["resize"] = {"shortest": shortest, "longest": resize.get("max_size", 10**9)}
    with config_errors(name_nearest):
        return instantiate(cfg.model).to("cpu"), facts


def _name(augmentation: Mapping[str, Any]) -> str:
    target = augmentation["_target_"]
    return str(getattr(target, "__name__", target)).rpartition(".")[2]


def _class_names(datasets: Sequence[str]) -> Sequence[str] | None:
    """Return those of the first dataset for which Detectron2 knows them without its files."""
    known = (MetadataCatalog.get(name).get("thing_classes") for name in datasets if name in MetadataCatalog.list())
    return next((list(names) for names in known if names), None)
