"""What ``tools/train_net.py`` does: training and evaluation from a YAML config or a LazyConfig.

It is Detectron2's own procedure (``train_net.py`` and ``lazyconfig_train_net.py`` of its tools), with four additions: a
machine without a GPU trains on its CPU, a data set of one's own goes into any config, checkpoints of every published
layout load, and a training that was broken off goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    TrainerBase,
    default_argument_parser,
    hooks,
)
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
    verify_results,
)
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn

from resnest_backbones.cli import print_next
from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer
from resnest_backbones.detectron2.config import add_resnest_config
from resnest_backbones.detectron2.custom_coco import CocoSource
from resnest_backbones.detectron2.engine.data import NamingMapper, build_train_loader_from_config, set_first_batch
from resnest_backbones.detectron2.engine.drawing import DrawPredictions
from resnest_backbones.detectron2.engine.run_setup import (
    SaveMissedFinal,
    SeedIterations,
    StopAtInvalidLoss,
    build_step_trainer,
    check_cropped_polygons,
    custom_data,
    device_here,
    parallel,
    seed_of_run,
    set_up,
    what_was_adapted,
)
from resnest_backbones.detectron2.engine.train_lazy import main_lazy
from resnest_backbones.errors import ConfigError, DatasetError, add_verbose

logger = logging.getLogger(__name__)

# What Detectron2's evaluators import only when they evaluate.
_EVALUATOR_PACKAGES = {
    "coco_panoptic_seg": "panopticapi",
    "lvis": "lvis",
    "cityscapes_instance": "cityscapesscripts",
    "cityscapes_sem_seg": "cityscapesscripts",
}
_CUSTOM_DATA = ("train_json", "train_images", "val_json", "val_images")


def build_argument_parser() -> argparse.ArgumentParser:
    """Detectron2's command line, options for a data set of one's own, and how long to wait for a silent process."""
    parser = default_argument_parser(
        epilog="""
Examples:

  Train a recipe on 8 GPUs, COCO in $DETECTRON2_DATASETS:
    python tools/train_net.py --num-gpus 8 \\
        --config-file configs/detectron2/coco_detection/faster_rcnn_resnest50_fpn_1x.yaml

  Train the same network on your own data, on whatever this machine has:
    python tools/train_net.py --config-file configs/detectron2/coco_detection/faster_rcnn_resnest50_fpn_1x.yaml \\
        --train-json train.json --train-images images/ --val-json val.json --val-images images/ \\
        SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.0025

  Go on after an interruption: the same command with --resume
  Evaluate: the same command with --eval-only MODEL.WEIGHTS output/model_final.pth
"""
    )
    add_verbose(parser)
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=DEFAULT_TIMEOUT.total_seconds(),
        metavar="SECONDS",
        help="how long a process waits for one that does not answer, then ends with an error (default: %(default)g)",
    )
    group = parser.add_argument_group("a data set of your own, in COCO format, instead of the config's")
    group.add_argument("--train-json", metavar="FILE", help="annotations to train on; they give the classes")
    group.add_argument("--train-images", metavar="DIR", help="folder of their images")
    group.add_argument("--val-json", metavar="FILE", help="annotations to evaluate on")
    group.add_argument("--val-images", metavar="DIR", help="folder of their images")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        ValueError: the config file is not there, only some of the options of one's own data are, or the time-out is not
            above 0; the message names them.
    """
    if not args.config_file:
        raise ValueError("--config-file must name a config, got none")
    if not os.path.isfile(args.config_file):
        raise ValueError(f"--config-file must be a file, got {args.config_file}")
    if not 0 < args.dist_timeout < float("inf"):
        raise ValueError(f"--dist-timeout must be above 0, got {args.dist_timeout:g}")
    given = [name for name in _CUSTOM_DATA if getattr(args, name)]
    needed = _CUSTOM_DATA[2:] if args.eval_only else _CUSTOM_DATA
    if given and not set(needed) <= set(given):
        options = ["--" + name.replace("_", "-") for name in needed]
        missing = [option for option, name in zip(options, needed, strict=True) if name not in given]
        raise ValueError(f"{', '.join(options)} must be given together, {', '.join(missing)} are missing")


def main(args: argparse.Namespace) -> Any:
    """Train or evaluate as the arguments say; run in each process by ``detectron2.engine.launch``.

    Returns:
        The evaluation's results, a dict of dicts of figures in percent, on the main process.
    """
    return main_lazy(args) if args.config_file.endswith(".py") else _main_yaml(args)


def build_evaluator(dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """The evaluator that fits a data set's ``evaluator_type``, as in Detectron2's own tool.

    Raises:
        ValueError: Detectron2 has no evaluator for that type.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    single: dict[str, Callable[[], DatasetEvaluator]] = {
        "sem_seg": lambda: SemSegEvaluator(dataset_name, distributed=True, output_dir=output_folder),
        "coco": lambda: COCOEvaluator(dataset_name, output_dir=output_folder),
        "coco_panoptic_seg": lambda: DatasetEvaluators(
            [
                SemSegEvaluator(dataset_name, distributed=True, output_dir=output_folder),
                COCOEvaluator(dataset_name, output_dir=output_folder),
                COCOPanopticEvaluator(dataset_name, output_folder),
            ]
        ),
        "cityscapes_instance": lambda: CityscapesInstanceEvaluator(dataset_name),
        "cityscapes_sem_seg": lambda: CityscapesSemSegEvaluator(dataset_name),
        "pascal_voc": lambda: PascalVOCDetectionEvaluator(dataset_name),
        "lvis": lambda: _lvis_evaluator(dataset_name, output_folder),
    }
    if kind not in single:
        raise ValueError(f"the data set {dataset_name} must have an evaluator_type of {', '.join(single)}, got {kind}")
    return single[kind]()


def _check_evaluator(dataset_name: str) -> None:
    """Miss an evaluator's package before the training, not after it."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "")
    package = _EVALUATOR_PACKAGES.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(f"DATASETS.TEST has {dataset_name}, whose evaluation needs the package {package}: install it")


def _lvis_evaluator(dataset_name: str, output_folder: str) -> LVISEvaluator:
    # The last release of lvis, 0.5.3, names numpy.float, which numpy 1.24 dropped. It alone sees this stand-in.
    evaluation: Any = importlib.import_module("lvis.eval")
    if not hasattr(evaluation.np, "float"):
        evaluation.np = SimpleNamespace(**{**vars(evaluation.np), "float": float})
    return LVISEvaluator(dataset_name, output_dir=output_folder)


class Trainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` with the evaluators of its own tool, CPU training and exact resumption."""

    def __init__(self, cfg: CfgNode) -> None:
        # Not DefaultTrainer's: that one needs a GPU for each process, and makes the stock checkpointer.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = parallel(model, cfg.MODEL.DEVICE, broadcast_buffers=False)
        amp = cfg.SOLVER.AMP.ENABLED
        self._trainer = build_step_trainer(model, loader, optimizer, device=cfg.MODEL.DEVICE, amp=amp)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = ResNeStCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks behind one that seeds each iteration, and one that looks at its loss."""
        stock = super().build_hooks()
        precise_bn = next((hook for hook in stock if isinstance(hook, hooks.PreciseBN)), None)
        self._stop = StopAtInvalidLoss(self._trainer.model, self._trainer.optimizer)
        seed = SeedIterations(max(self.cfg.SEED, 0), precise_bn)
        drawn = []
        if self.cfg.VIS_PERIOD > 0 and self.cfg.DATASETS.TEST and comm.is_main_process():
            drawn.append(DrawPredictions(self.cfg, self.build_test_loader))
        return [seed, self._stop, SaveMissedFinal(self.checkpointer), *drawn, *stock]

    def train(self) -> Any:
        """Train from ``start_iter`` on, with the batches that belong there; returns the last evaluation's results."""
        set_first_batch(self.data_loader, self.start_iter)
        with self._stop.explain(self):
            super().train()
        return getattr(self, "_last_eval_results", {})

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Detectron2's training loader, made resumable."""
        return build_train_loader_from_config(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Detectron2's loader for evaluation, which names the image that it cannot load."""
        mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """The evaluator that fits a data set."""
        return build_evaluator(dataset_name, output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluate with Detectron2's test-time augmentation; its results have ``_TTA`` behind their names.

        Only plain R-CNN models have it in Detectron2; others are left out with a warning.
        """
        if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            logger.warning(
                "TEST.AUG.ENABLED has no effect: Detectron2 has no test-time augmentation for %s%s",
                cfg.MODEL.META_ARCHITECTURE,
                " with keypoints or proposals" if cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN" else "",
            )
            return {}
        logger.info("Evaluating with test-time augmentation ...")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, _unwrapped(model)), evaluators)
        return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def setup(args: argparse.Namespace) -> CfgNode:
    """The full config of a run: the file's keys, one's own data, the command line's keys, and what the machine needs.

    Raises:
        ConfigError: a key is unknown, or has a value that it cannot have.
        DatasetError: one's own data do not hold up, or do not fit the config.
    """
    cfg = get_cfg()
    add_resnest_config(cfg)
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
    except (AssertionError, KeyError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{args.config_file} and the command line's keys cannot be used: {error}") from error
    custom = custom_data(args)
    if custom is not None:
        _use_custom_data(cfg, *custom)
        cfg.merge_from_list(args.opts)  # what the command line says has the last word
    wanted_device = cfg.MODEL.DEVICE
    cfg.MODEL.DEVICE = device_here(wanted_device)
    if not args.eval_only:  # which takes images one by one
        _check_batch(cfg)
    for name in cfg.DATASETS.TEST:
        _check_evaluator(name)
    if cfg.INPUT.CROP.ENABLED and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and not args.eval_only:
        check_cropped_polygons()
    cfg.SEED = seed_of_run(cfg.SEED, cfg.OUTPUT_DIR, args)
    cfg.freeze()
    set_up(cfg, args, cfg.OUTPUT_DIR, what_was_adapted(cfg.MODEL.DEVICE, wanted_device, cfg.SOLVER.AMP.ENABLED))
    return cfg


def _use_custom_data(cfg: CfgNode, train: str | None, val: str, source: CocoSource) -> None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture not in ("GeneralizedRCNN", "RetinaNet", "FCOS"):
        raise DatasetError(f"{source.json_file} has boxes and masks, but {architecture} needs other annotations too")
    if cfg.MODEL.KEYPOINT_ON:
        raise DatasetError(f"{source.json_file}: options for data of one's own do not serve keypoint models")
    if cfg.MODEL.MASK_ON and source.num_annotations and not source.has_masks:
        raise DatasetError(
            f"{source.json_file} lacks the segmentation of some annotations, which a model with MODEL.MASK_ON needs; "
            "take a detection config, or turn the key off"
        )
    cfg.DATASETS.TRAIN = (train,) if train is not None else ()
    cfg.DATASETS.TEST = (val,)
    for head in ("ROI_HEADS", "RETINANET", "FCOS"):
        if head in cfg.MODEL:
            cfg.MODEL[head].NUM_CLASSES = len(source.class_names)


def _check_batch(cfg: CfgNode) -> None:
    """Batch norm needs two values per channel; the attention's has one per image, since its input is pooled."""
    batch, processes, norm = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.MODEL.RESNETS.NORM
    if batch % processes:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got {batch}")
    images = batch if "SyncBN" in norm else batch // processes
    if (
        "resnest" in cfg.MODEL.BACKBONE.NAME
        and norm in ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
        and images == 1
    ):
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH must be 2 or more {'in all' if 'SyncBN' in norm else 'per process'} with "
            f"MODEL.RESNETS.NORM {norm}, got {batch} for {processes} processes; FrozenBN, GN and LN take single images"
        )


def _main_yaml(args: argparse.Namespace) -> Any:
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = ResNeStCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.require_whole = True
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_with_tta(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks([hooks.EvalHook(0, lambda: trainer.test_with_tta(cfg, trainer.model))])
    results = trainer.train()
    if comm.is_main_process():
        folder = Path(cfg.OUTPUT_DIR)
        print_next(
            "see what it finds",
            *("tools/demo.py", "--config", folder / "config.yaml", "--checkpoint", folder / "model_final.pth"),
            *(("--classes", args.train_json) if args.train_json else ()),
            "IMAGE_OR_FOLDER",
        )
    return results
