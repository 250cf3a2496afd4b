"""What ``tools/train_net.py`` does: training and evaluation from a YAML config or a LazyConfig.

It is Detectron2's own procedure (``train_net.py`` and ``lazyconfig_train_net.py`` of its tools) with four additions: it
runs on CPUs, puts a custom dataset into any config, loads checkpoints of every published layout, and resumes a training
bit for bit. ``main`` and ``train`` are that procedure; a ``YamlRun`` or a ``LazyRun`` makes what they need of a config.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, default_writers, hooks
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format, verify_results
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNNWithTTA
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer

from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer
from resnest_backbones.detectron2.custom_coco import use_custom_dataset
from resnest_backbones.detectron2.engine.data import (
    COCO_MAX_DETECTIONS,
    build_evaluator,
    build_resumable_train_loader,
    build_test_loader,
    build_train_loader_from_config,
    check_evaluator,
    class_names_of,
    evaluate_by_name,
    limit_of_detections,
    locate_target,
    set_first_batch,
    use_image_mapper,
)
from resnest_backbones.detectron2.engine.hooks import (
    DrawPredictions,
    RepeatablePreciseBN,
    SaveMissedFinal,
    SeedIterations,
    StopAtInvalidLoss,
)
from resnest_backbones.detectron2.engine.run_setup import (
    NestedState,
    build_step_trainer,
    check_batch,
    check_cropped_polygons,
    check_sizes,
    parallel,
    prepare,
    setup_run,
)
from resnest_backbones.detectron2.options import (
    load_lazy_config,
    load_yaml_config,
    merge_lazy_options,
    name_nearest,
)
from resnest_backbones.errors import config_errors

logger = logging.getLogger(__name__)

_CUSTOM_DATASET = ("train_json", "train_images", "val_json", "val_images")


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train or evaluate as the arguments say; ``detectron2.engine.launch`` calls it in each process.

    It returns the results of the last evaluation on the main process: task -> metric -> percent. What goes wrong with
    config, weights, data, losses or the output folder is a ``ResNeStError`` or an ``OSError``.
    """
    with config_errors(name_nearest):
        run = LazyRun(args) if args.config_file.endswith(".py") else YamlRun(args)
        model = run.build_model()
    results = (evaluate if args.eval_only else train)(run, model, resume=args.resume)
    if isinstance(run, YamlRun) and comm.is_main_process():
        verify_results(run.cfg, results)  # with TEST.EXPECTED_RESULTS
    return results


def evaluate(run: YamlRun | LazyRun, model: nn.Module, *, resume: bool) -> dict[str, Any]:
    """Evaluate the weights of the config, or with ``resume`` the last checkpoint; return the results."""
    checkpointer = ResNeStCheckpointer(model, save_dir=run.output_dir)
    checkpointer.require_whole, checkpointer.class_names = True, class_names_of(run.evaluated_on)
    checkpointer.resume_or_load(run.weights, resume=resume)
    run.class_places = checkpointer.class_places
    results = run.evaluate(model)
    if run.evaluate_augmented:
        results.update(run.evaluate_augmented(model))
    return results


def train(run: YamlRun | LazyRun, model: nn.Module, *, resume: bool) -> dict[str, Any]:
    """Train a model, with ``resume`` from its last checkpoint on; return the results of the last evaluation."""
    with config_errors(name_nearest):
        optimizer = run.build_optimizer(model)
        scheduler = run.build_lr_scheduler(optimizer)
        loader = run.build_train_loader()
    model = parallel(model, run.device, **run.ddp)
    trainer = build_step_trainer(model, loader, optimizer, device=run.device, amp=run.amp)
    saved = NestedState(trainer) if isinstance(run, YamlRun) else trainer
    checkpointer = ResNeStCheckpointer(model, run.output_dir, trainer=saved)
    checkpointer.class_names = class_names_of(run.trained_on)
    results: dict[str, Any] = {}

    def evaluate_now() -> dict[str, Any]:
        results.update(run.evaluate(model))
        return dict(results)

    stop = StopAtInvalidLoss(model, optimizer)
    trainer.register_hooks(
        [
            SeedIterations(run.seed),
            stop,
            SaveMissedFinal(checkpointer),
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=scheduler),
            *run.build_more_hooks(model),  # before the checkpoint, which is to have precise BN's statistics
        ]
    )
    is_main = comm.is_main_process()
    if is_main:
        trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, **run.checkpoints)])
    trainer.register_hooks([hooks.EvalHook(run.eval_period, evaluate_now)])
    checkpointer.resume_or_load(run.weights, resume=resume)  # before metrics.json, which a run that began leaves
    if is_main:
        writers = default_writers(run.output_dir, run.max_iter)
        trainer.register_hooks([hooks.PeriodicWriter(writers, period=run.log_period)])
    if run.evaluate_augmented:
        trainer.register_hooks([hooks.EvalHook(0, partial(run.evaluate_augmented, model))])
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    set_first_batch(loader, start)
    with stop.explain(trainer):
        trainer.train(start, run.max_iter)
    return results


class YamlRun:
    """What a YAML config makes of a run, as Detectron2's ``DefaultTrainer`` does; its logs are set up.

    Attributes:
        cfg: the file's keys, the custom dataset, the command line's keys, and what this machine needs; frozen.
        class_places: the place of each of the model's classes in the data to evaluate on; None where it is the same.
    """

    class_places: Sequence[int] | None = None
    log_period = 20
    ddp: Mapping[str, Any] = {"broadcast_buffers": False}

    def __init__(self, args: argparse.Namespace) -> None:
        cfg = load_yaml_config(args.config_file, args.opts)
        META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)  # before the data are looked at for it
        if args.val_json:
            use_custom_dataset(cfg, *(getattr(args, name) for name in _CUSTOM_DATASET))
            cfg.merge_from_list(args.opts)  # the command line has the last word
        if not args.eval_only:  # which takes images one by one
            check_batch(cfg)
            check_sizes(cfg)
            cfg.DATASETS.CLASSES = class_names_of(cfg.DATASETS.TRAIN)
        for name in cfg.DATASETS.TEST:
            check_evaluator(name)
        if cfg.INPUT.CROP.ENABLED and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and not args.eval_only:
            check_cropped_polygons()
        self.output_dir: str = cfg.OUTPUT_DIR
        self.weights: str = cfg.MODEL.WEIGHTS
        self.amp: bool = cfg.SOLVER.AMP.ENABLED
        cfg.MODEL.DEVICE, cfg.SEED, messages = prepare(
            args, device=cfg.MODEL.DEVICE, key="MODEL.DEVICE", seed=cfg.SEED,
            weights=self.weights, output_dir=self.output_dir, amp=self.amp,
        )  # fmt: skip
        cfg.freeze()
        setup_run(cfg, args, cfg.OUTPUT_DIR, messages)
        if not args.eval_only:
            cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.device: str = cfg.MODEL.DEVICE
        self.seed: int = cfg.SEED
        self.trained_on, self.evaluated_on = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
        self.max_iter: int = cfg.SOLVER.MAX_ITER
        self.eval_period: int = cfg.TEST.EVAL_PERIOD
        self.checkpoints = {"period": cfg.SOLVER.CHECKPOINT_PERIOD}
        self.build_model = partial(DefaultTrainer.build_model, cfg)
        self.build_optimizer = partial(build_optimizer, cfg)
        self.build_lr_scheduler = partial(build_lr_scheduler, cfg)
        self.build_train_loader = partial(build_train_loader_from_config, cfg)
        self.evaluate_augmented = self._evaluate_augmented if cfg.TEST.AUG.ENABLED else None

    def build_more_hooks(self, model: nn.Module) -> list[HookBase]:
        """Build the hooks of ``VIS_PERIOD`` and ``TEST.PRECISE_BN``."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # as DefaultTrainer has it for precise BN
        found: list[HookBase] = []
        if cfg.VIS_PERIOD > 0 and cfg.DATASETS.TEST and comm.is_main_process():
            name = cfg.DATASETS.TEST[0]
            batches, metadata = build_test_loader(self.cfg, name), MetadataCatalog.get(name)
            found.append(DrawPredictions(batches, metadata, image_format=cfg.INPUT.FORMAT, period=cfg.VIS_PERIOD))
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(model):
            loader = build_train_loader_from_config(cfg)
            found.append(RepeatablePreciseBN(self.eval_period, model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        return found

    def evaluate(self, model: nn.Module, folder: str = "inference") -> dict[str, Any]:
        """Evaluate a model on ``DATASETS.TEST``; results of several datasets have their names above them."""
        results = {}
        for name in self.cfg.DATASETS.TEST:
            limit = self.cfg.TEST.DETECTIONS_PER_IMAGE
            evaluator = build_evaluator(name, os.path.join(self.output_dir, folder), limit)
            evaluator = evaluate_by_name(evaluator, self.class_places)
            results[name] = inference_on_dataset(model, build_test_loader(self.cfg, name), evaluator)
            if comm.is_main_process():
                logger.info("Evaluation results for %s in csv format:", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    def _evaluate_augmented(self, model: nn.Module) -> dict[str, Any]:
        """Evaluate with Detectron2's test-time augmentation, which is for plain R-CNN models; names end with _TTA."""
        cfg = self.cfg
        if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            kind = cfg.MODEL.META_ARCHITECTURE
            kind += " with keypoints or proposals" if kind == "GeneralizedRCNN" else ""
            logger.warning("TEST.AUG.ENABLED has no effect: Detectron2 has no test-time augmentation for %s", kind)
            return {}
        logger.info("Evaluating with test-time augmentation ...")
        plain = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        results = self.evaluate(GeneralizedRCNNWithTTA(cfg, plain), "inference_TTA")
        return {f"{name}_TTA": value for name, value in results.items()}


class LazyRun:
    """What a LazyConfig makes of a run, as Detectron2's ``lazyconfig_train_net.py`` does; its logs are set up."""

    class_places: Sequence[int] | None = None
    evaluate_augmented = None

    def __init__(self, args: argparse.Namespace) -> None:
        self.cfg = cfg = load_lazy_config(args.config_file, args.opts)
        if args.val_json:
            use_custom_dataset(cfg, *(getattr(args, name) for name in _CUSTOM_DATASET))
            self.cfg = cfg = merge_lazy_options(cfg, args.opts)  # the command line has the last word
        if not args.eval_only and _crops_polygons(cfg.dataloader.train.get("mapper")):
            check_cropped_polygons()
        settings = cfg.train
        self.output_dir: str = settings.output_dir
        self.weights: str = settings.init_checkpoint
        self.amp: bool = settings.amp.enabled
        settings.device, settings.seed, messages = prepare(
            args, device=settings.device, key="train.device", seed=settings.get("seed", -1),
            weights=self.weights, output_dir=self.output_dir, amp=self.amp,
        )  # fmt: skip
        self.device: str = settings.device
        self.seed: int = settings.seed
        self.trained_on, self.evaluated_on = (
            cfg.dataloader.get(part, {}).get("dataset", {}).get("names", ()) for part in ("train", "test")
        )
        self.max_iter: int = settings.max_iter
        self.eval_period: int = settings.eval_period
        self.log_period: int = settings.log_period
        self.checkpoints: Mapping[str, Any] = settings.checkpointer
        self.ddp: Mapping[str, Any] = settings.ddp
        setup_run(cfg, args, self.output_dir, messages)

    def build_model(self) -> nn.Module:
        """Build the model, and log it."""
        model: nn.Module = instantiate(self.cfg.model).to(self.device)
        logger.info("Model:\n%s", model)
        return model

    def build_optimizer(self, model: nn.Module) -> Optimizer:
        """Build ``optimizer``."""
        self.cfg.optimizer.params.model = model
        optimizer: Optimizer = instantiate(self.cfg.optimizer)
        return optimizer

    def build_lr_scheduler(self, optimizer: Optimizer) -> Any:
        """Build ``lr_multiplier``, which Detectron2's hook puts above the optimizer."""
        return instantiate(self.cfg.lr_multiplier)

    def build_train_loader(self) -> Any:
        """Build ``dataloader.train``; where it is Detectron2's standard loader, it can resume at any batch."""
        loader: Any = use_image_mapper(self.cfg.dataloader.train)
        known = {"_target_", *inspect.signature(build_resumable_train_loader).parameters}
        if locate_target(loader) is not build_detection_train_loader or not set(loader) <= known:
            logger.warning(
                "dataloader.train is not Detectron2's standard loader: resuming restarts it from the beginning"
            )
            return instantiate(loader)
        loader = OmegaConf.merge(loader, {"seed": self.seed})
        loader._target_ = f"{build_resumable_train_loader.__module__}.{build_resumable_train_loader.__name__}"
        return instantiate(loader)

    def build_more_hooks(self, model: nn.Module) -> list[HookBase]:
        """Build no more hooks: a LazyConfig asks for none."""
        return []

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        """Evaluate a model with ``dataloader.evaluator``, where there is one, on ``dataloader.test``."""
        data = self.cfg.dataloader
        if "evaluator" not in data:
            return {}
        evaluator = data.evaluator
        if locate_target(evaluator) is COCOEvaluator and "max_dets_per_image" not in evaluator:
            limit = limit_of_detections(_detections_per_image(self.cfg.model))
            evaluator = OmegaConf.merge(evaluator, {"max_dets_per_image": limit})
        evaluator = evaluate_by_name(instantiate(evaluator), self.class_places)
        results = inference_on_dataset(model, instantiate(use_image_mapper(data.test)), evaluator)
        if comm.is_main_process():
            print_csv_format(results)
        return results or {}


def _detections_per_image(model: Any) -> int:
    """Find how many detections a LazyConfig's model gives: of its box predictors, or its own as a single-stage one."""
    heads = model.get("roi_heads") or {}
    predictors = heads.get("box_predictors") or [heads.get("box_predictor") or {}]
    of_one_stage = model.get("max_detections_per_image", COCO_MAX_DETECTIONS)
    return int(predictors[-1].get("test_topk_per_image", of_one_stage))


def _crops_polygons(mapper: Any) -> bool:
    if mapper is None or not mapper.get("use_instance_mask") or mapper.get("instance_mask_format") == "bitmask":
        return False
    return any("Crop" in str(augmentation.get("_target_")) for augmentation in mapper.get("augmentations", []))
