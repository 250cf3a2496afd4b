"""Training and evaluation from a LazyConfig, as ``lazyconfig_train_net.py`` of Detectron2's tools."""

from __future__ import annotations

import argparse
import inspect
import logging
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_train_loader
from detectron2.engine import default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from resnest_backbones.detectron2.checkpoint import ResNeStCheckpointer
from resnest_backbones.detectron2.custom_coco import CocoSource
from resnest_backbones.detectron2.engine.data import build_resumable_train_loader, set_first_batch
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
from resnest_backbones.errors import DatasetError

logger = logging.getLogger(__name__)


def main_lazy(args: argparse.Namespace) -> Any:
    """Train or evaluate as the arguments say, from a ``.py`` config."""
    cfg = LazyConfig.load(args.config_file)
    cfg = LazyConfig.apply_overrides(cfg, args.opts)
    custom = custom_data(args)
    if custom is not None:
        _use_custom_data(cfg, *custom)
        cfg = LazyConfig.apply_overrides(cfg, args.opts)  # what the command line says has the last word
    if not args.eval_only and _crops_masks(cfg.dataloader.train.get("mapper")):
        check_cropped_polygons()
    wanted_device = cfg.train.device
    cfg.train.device = device_here(wanted_device)
    cfg.train.seed = seed_of_run(cfg.train.get("seed", -1), cfg.train.output_dir, args)
    adapted = what_was_adapted(cfg.train.device, wanted_device, cfg.train.amp.enabled)
    set_up(cfg, args, cfg.train.output_dir, adapted)
    if not args.eval_only:
        return _train(cfg, args.resume)
    model = instantiate(cfg.model).to(cfg.train.device)
    checkpointer = ResNeStCheckpointer(model, save_dir=cfg.train.output_dir)
    checkpointer.require_whole = True
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    return _test(cfg, model)


def _use_custom_data(cfg: DictConfig, train: str | None, val: str, source: CocoSource) -> None:
    heads = [node for node in (cfg.model.get("roi_heads"), cfg.model) if node is not None and "num_classes" in node]
    if not heads:
        raise DatasetError("the config has neither model.roi_heads.num_classes nor model.num_classes to set")
    heads[0].num_classes = len(source.class_names)
    if "mask_head" in heads[0] and source.num_annotations and not source.has_masks:
        raise DatasetError(f"{source.json_file} lacks the segmentation of some annotations, which a mask head needs")
    if train is not None:
        cfg.dataloader.train.dataset.names = train
    cfg.dataloader.test.dataset.names = val
    cfg.dataloader.evaluator.dataset_name = val


def _crops_masks(mapper: Any) -> bool:
    if mapper is None or not mapper.get("use_instance_mask") or mapper.get("instance_mask_format") == "bitmask":
        return False
    return any("Crop" in str(augmentation.get("_target_")) for augmentation in mapper.get("augmentations", []))


def _build_train_loader(cfg: DictConfig) -> Any:
    """The config's loader; made resumable where it is Detectron2's standard one."""
    loader = cfg.dataloader.train
    target = locate(loader._target_) if isinstance(loader._target_, str) else loader._target_
    known = {"_target_", *inspect.signature(build_resumable_train_loader).parameters}
    if target is not build_detection_train_loader or not set(loader) <= known:
        logger.warning("dataloader.train is not Detectron2's standard loader: a resumed training will start it anew")
        return instantiate(loader)
    loader = OmegaConf.merge(loader, {"seed": cfg.train.seed})
    loader._target_ = "resnest_backbones.detectron2.engine.data.build_resumable_train_loader"
    return instantiate(loader)


def _train(cfg: DictConfig, resume: bool) -> Any:
    model = instantiate(cfg.model).to(cfg.train.device)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = _build_train_loader(cfg)
    model = parallel(model, cfg.train.device, **cfg.train.ddp)
    trainer = build_step_trainer(model, loader, optimizer, device=cfg.train.device, amp=cfg.train.amp.enabled)
    checkpointer = ResNeStCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    results: dict[str, Any] = {}

    def test() -> Any:
        results.update(_test(cfg, model) or {})
        return dict(results)

    is_main = comm.is_main_process()
    stop = StopAtInvalidLoss(model, optimizer)
    trainer.register_hooks(
        [
            SeedIterations(cfg.train.seed),
            stop,
            SaveMissedFinal(checkpointer),
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
            hooks.EvalHook(cfg.train.eval_period, test),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), period=cfg.train.log_period)
            if is_main
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    set_first_batch(loader, start)
    with stop.explain(trainer):
        trainer.train(start, cfg.train.max_iter)
    return results


def _test(cfg: DictConfig, model: nn.Module) -> Any:
    if "evaluator" not in cfg.dataloader:
        return {}
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results
