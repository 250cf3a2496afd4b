"""What ``tools/train_seg.py`` and ``tools/test_seg.py`` do: MMSegmentation's training and testing from a config.

The command lines are MMSegmentation's own. Added to them: a machine without GPUs runs on its CPU, ``--data-root`` puts
a custom dataset into any config, checkpoints of every published layout load, a checkpoint that does not fill the model
is refused, files are never half-written, and an interrupted training resumes as if it had not been interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import RUNNERS
from torch import distributed

from resnest_backbones import __name__ as PACKAGE
from resnest_backbones.checkpoint import remove_unfinished, set_aside
from resnest_backbones.checkpoint.contents import split_part
from resnest_backbones.errors import (
    CheckpointError,
    ConfigError,
    WeightsError,
    check_writable,
    config_errors,
    did_you_mean,
)
from resnest_backbones.mmseg.checkpoint import use_safe_loading
from resnest_backbones.mmseg.config import (
    add_hook,
    as_list,
    describe_output_stride,
    inner_datasets,
    load_config,
    registries,
    remove_hook,
    type_name,
    use_custom_dataset,
    use_test_time_augmentation,
)
from resnest_backbones.mmseg.datasets import LabelMapDataset, check_custom_dataset
from resnest_backbones.mmseg.engine.resumable import make_resumable, repair_last_checkpoint
from resnest_backbones.outputs import Training, last_checkpoint
from resnest_backbones.weights import SCHEME, get_record

_LONG_MESSAGES = ("Config:\n", "Hooks will be executed")  # how they begin
_UNREGISTERED = re.compile(r"(\S+) is not in the (\S+) registry")
_SYNC_NORMS = ("SyncBN", "MMSyncBN")


def train(args: argparse.Namespace) -> Training:
    """Train as the options of ``tools/train_seg.py`` say; only the main process returns metrics and checkpoint.

    What is missing, wrong, diverged or full is named by a ``ResNeStError`` or an ``OSError``.
    """
    use_safe_loading()
    cfg = _setup_config(args)
    if args.amp:
        _turn_on_amp(cfg)
    if args.tensorboard is not None:
        _turn_on_tensorboard(cfg, args.tensorboard)
    if cfg.get("load_from"):
        _check_file("load_from", cfg.load_from)
    cfg.resume = args.resume
    remove_hook(cfg, "RequireWholeCheckpointHook")  # of the dumped config of a resumed run
    if cfg.resume:
        _restore_seed(cfg)
        add_hook(cfg, "RequireWholeCheckpointHook")
    messages = [
        *describe_output_stride(cfg),
        *_check_custom_data(cfg, "train", "val"),
        *adapt_to_cpu(cfg),
        *make_resumable(cfg),
    ]
    setup_run(cfg, args)
    if is_main_process():
        check_writable(cfg.work_dir)
        remove_unfinished(cfg.work_dir)
        if not args.resume:
            others = ("[0-9]*_[0-9]*", os.path.basename(args.config))
            messages += set_aside(cfg.work_dir, ("*.pth", "last_checkpoint"), others, keep=cfg.get("load_from") or "")
    runner = build_runner(cfg, messages, verbose=args.verbose)
    try:
        with config_errors(name_nearest):  # of what the runner builds when it is to run
            runner.train()
    except (WeightsError, URLError) as error:
        without = f"model.backbone.init_cfg=None{' load_from=None' if cfg.get('load_from') else ''}"
        raise WeightsError(f"{error}; --cfg-options {without} trains without initial weights") from error
    folder = Path(cfg.work_dir)
    if not _end_processes():
        return Training(folder, {}, None)
    scalars = {name.partition("val/")[2]: value for name, value in runner.message_hub.log_scalars.items()}
    metrics = {name: value.current() for name, value in scalars.items() if name and not name.endswith("time")}
    return Training(folder, metrics, last_checkpoint(folder))


def test(args: argparse.Namespace) -> dict[str, float]:
    """Test as the options of ``tools/test_seg.py`` say; a checkpoint that does not fill the model is an error, too.

    The main process returns the metrics, mIoU first, in percent for ``IoUMetric``.
    """
    use_safe_loading()
    cfg = _setup_config(args)
    _check_file("checkpoint", args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    add_hook(cfg, "RequireWholeCheckpointHook")
    if args.show or args.show_dir:
        _turn_on_drawing(cfg, args)
    if args.tta:
        use_test_time_augmentation(cfg)
    if args.out is not None:
        for evaluator in as_list(cfg.test_evaluator):
            evaluator.update(output_dir=args.out, keep_results=True)
    messages = [*describe_output_stride(cfg), *_check_custom_data(cfg, "test"), *adapt_to_cpu(cfg)]
    setup_run(cfg, args)
    runner = build_runner(cfg, messages, verbose=args.verbose)
    if args.out is not None:
        _check_names_differ(runner.test_loop.dataloader.dataset)
    metrics = runner.test()
    return dict(sorted(metrics.items(), key=lambda item: not item[0].endswith("mIoU"))) if _end_processes() else {}


def build_runner(cfg: Config, messages: Sequence[str], *, verbose: bool = False) -> Runner:
    """Build MMEngine's runner of a config, which first logs ``messages`` as warnings.

    The whole config and the order of hooks are in the log file alone, with ``verbose`` on the screen, too.
    """
    base: Any = RUNNERS.get(cfg.runner_type) if cfg.get("runner_type") else Runner

    class QuietRunner(base):
        def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
            logger: MMLogger = super().build_logger(*args, **kwargs)
            logging.getLogger(PACKAGE).handlers[:] = logger.handlers  # for lines of this package outside its plugin
            for message in messages:
                logger.warning(message)
            for handler in () if verbose else logger.handlers:
                if getattr(handler, "stream", None) is sys.stdout:
                    handler.addFilter(lambda record: not str(record.msg).startswith(_LONG_MESSAGES))
            return logger

    with config_errors(name_nearest):
        runner: Runner = QuietRunner.from_cfg(cfg)
    return runner


def name_nearest(message: str) -> str:
    """Return a message about a type that no registry has with the nearest ones, and other messages as they are."""
    found = _UNREGISTERED.search(message)
    if not found:
        return message
    names = [name for r in registries() if r.name == found[2].rpartition("::")[2] for name in _names_of(r)]
    return f"there is no {found[1]}; {did_you_mean(found[1], names, 'its module may be missing from custom_imports')}"


def _names_of(registry: Registry) -> list[str]:
    return [*registry.module_dict, *(_names_of(registry.parent) if registry.parent else ())]


def _setup_config(args: argparse.Namespace) -> Config:
    """Return the config with what the command line changes in it: options, dataset, launcher, work dir."""
    cfg = load_config(args.config, args.cfg_options)
    if args.data_root:
        use_custom_dataset(cfg, args.data_root, args.classes)
    elif args.classes:
        raise ConfigError("--classes requires --data-root")
    # Also for a config without this package in it: the run's dumped config names modules of it.
    imports = cfg.get("custom_imports") or {"imports": []}
    names = [*as_list(imports["imports"]), "resnest_backbones.mmseg"]
    cfg.custom_imports = {**imports, "imports": [*dict.fromkeys(names)]}
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(args.config).stem)
    add_hook(cfg, "ResNeStCheckpointHook")
    return cfg


def _check_custom_data(cfg: Config, *loaders: str) -> list[str]:
    """Look at the label maps of custom datasets; return what looks wrong."""
    lines, images = [], []
    for settings in [cfg[f"{name}_dataloader"].dataset for name in loaders if cfg.get(f"{name}_dataloader")]:
        dataset = inner_datasets(settings)[0]
        if type_name(dataset) == LabelMapDataset.__name__:
            found, said = check_custom_dataset(dataset)
            images.append({image.resolve() for image in found})
            lines += said
    if len(images) == 2 and (shared := images[0] & images[1]):
        lines.append(f"{len(shared)} images are in both the training and validation sets, first {min(shared)}: the "
                     "metrics will not reflect unseen images")  # fmt: skip
    return lines


def _check_file(name: str, file: str) -> None:
    if file.startswith(SCHEME):
        get_record(file)  # an unknown name is told before the data are read
    elif "://" not in file and not os.path.isfile(split_part(file)[0]):  # other schemes may be anything
        raise CheckpointError(f"{name} must be a file, got {file}")


def _turn_on_amp(cfg: Config) -> None:
    kind = type_name(cfg.optim_wrapper) or "OptimWrapper"
    if kind not in ("OptimWrapper", "AmpOptimWrapper", "CPUAmpOptimWrapper"):
        needs = "--amp needs an optim_wrapper of type OptimWrapper or AmpOptimWrapper"
        raise ConfigError(f"{needs}, the config has {kind}")
    if kind == "OptimWrapper":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")


def _visualization_hook(cfg: Config, options: str) -> Any:
    hook = cfg.get("default_hooks", {}).get("visualization")
    if not hook:
        wanted = "default_hooks = dict(..., visualization=dict(type='SegVisualizationHook'))"
        raise ConfigError(f"{options} a hook in the config: {wanted}")
    return hook


def _turn_on_tensorboard(cfg: Config, interval: int) -> None:
    if interval < 1:
        raise ConfigError(f"--tensorboard must be 1 or more, got {interval}")
    if find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs the package tensorboard: pip install tensorboard")
    hook = _visualization_hook(cfg, "--tensorboard needs")
    hook.draw, hook.interval = True, interval
    if not cfg.get("visualizer"):
        raise ConfigError("--tensorboard needs a visualizer in the config")
    backends = list(cfg.visualizer.get("vis_backends") or [])
    if not any(backend["type"] == "TensorboardVisBackend" for backend in backends):
        cfg.visualizer.vis_backends = [*backends, {"type": "TensorboardVisBackend"}]


def _restore_seed(cfg: Config) -> None:
    """Take the seed of the run to resume: MMEngine restores it after it made the data loader, which needs it."""
    file = cfg.get("load_from") or repair_last_checkpoint(cfg.work_dir)
    if file and (cfg.get("randomness") or {}).get("seed") is None:
        checkpoint = CheckpointLoader.load_checkpoint(str(file), map_location="cpu")
        seed = checkpoint.get("meta", {}).get("seed")
        if seed is not None:
            cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}


def _turn_on_drawing(cfg: Config, args: argparse.Namespace) -> None:
    hook = _visualization_hook(cfg, "--show and --show-dir need")
    hook.draw, hook.interval = True, 1  # some releases would draw every fiftieth image only
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        if not cfg.get("visualizer"):
            raise ConfigError("--show-dir needs a visualizer in the config")
        cfg.visualizer.save_dir = args.show_dir


def _check_names_differ(dataset: Any) -> None:
    """Refuse images of one name in several folders: MMSegmentation names label maps without them."""
    first: dict[str, str] = {}
    for image in (dataset.get_data_info(i)["img_path"] for i in range(len(dataset))):
        if first.setdefault(Path(image).stem, image) != image:
            raise ConfigError(f"--out needs images with different names, got {first[Path(image).stem]} and {image}")


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Change what needs a GPU in a config, where there is none; return messages for the user about it."""
    if get_device() != "cpu":
        return []
    messages = ["No GPU found: running on the CPU"]
    wrapper = cfg.get("optim_wrapper")
    if wrapper and type_name(wrapper) == "AmpOptimWrapper":
        wrapper.type = "CPUAmpOptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)
        messages.append("Mixed precision on the CPU uses float32 and bfloat16, without loss scaling")
    if cfg.get("launcher", "none") != "none":
        if _replace_sync_norms(cfg.model):
            messages.append("SyncBN is replaced by CpuSyncBN, which exchanges statistics through Gloo")
        if cfg.pop("sync_bn", None) is not None:
            messages.append("sync_bn is ignored: MMEngine converts norms only for GPUs; set SyncBN in the norm_cfg")
        unused = cfg.get("find_unused_parameters", False)
        usual = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, "find_unused_parameters": unused}
        cfg.model_wrapper_cfg = {**(cfg.get("model_wrapper_cfg") or usual), "device_ids": None}
    return messages


def _replace_sync_norms(settings: Any) -> bool:
    """Replace SyncBN by one that works on CPUs everywhere below; return whether there was any."""
    if isinstance(settings, dict):
        found = type_name(settings) in _SYNC_NORMS
        if found:
            settings["type"] = "CpuSyncBN"
        return any([found, *(_replace_sync_norms(value) for value in settings.values())])
    return isinstance(settings, (list, tuple)) and any([_replace_sync_norms(value) for value in settings])


def setup_run(cfg: Config, args: argparse.Namespace) -> None:
    """Join the processes of the launcher by gloo where there is no GPU; MMEngine itself gives each process one.

    Raises:
        ConfigError: an environment variable that the launcher sets is missing.
    """
    if args.launcher == "none":
        return
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if get_device() != "cpu" or distributed.is_initialized():
        return
    try:
        _set_environment(args.launcher)
    except KeyError as error:
        raise ConfigError(f"--launcher {args.launcher} needs the environment variable {error.args[0]}") from error
    timeout = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
    distributed.init_process_group("gloo", timeout=None if timeout is None else timedelta(seconds=timeout))


def _set_environment(launcher: str) -> None:
    """Set what PyTorch reads, from what the launcher set, as MMEngine does for GPUs."""
    if launcher == "slurm":
        ranks = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
        host = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        if "MASTER_ADDR" not in os.environ:
            found = subprocess.run(host, capture_output=True, text=True, check=True)
            os.environ["MASTER_ADDR"] = found.stdout.split()[0]
    elif launcher == "mpi":
        ranks = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    else:
        ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ[name] for name in ranks]
    os.environ.update(zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), values, strict=True))
    if launcher != "pytorch":
        os.environ.setdefault("MASTER_PORT", "29500")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ[name]  # a KeyError names it


def _end_processes() -> bool:
    """End the group of processes; return whether this is its main one."""
    is_main = is_main_process()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return is_main
