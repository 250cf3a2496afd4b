"""What ``tools/train_seg.py`` and ``tools/test_seg.py`` do: MMSegmentation's training and testing from a config.

The command lines are MMSegmentation's own. Added are: a machine without GPUs runs on its CPU, ``--data-root`` puts a
data set of one's own into any config, checkpoints of every published layout load, a checkpoint that does not fill the
model is refused, files are whole or not there, and a training that was broken off goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import RUNNERS
from torch import distributed

from resnest_backbones.checkpoint import remove_unfinished
from resnest_backbones.cli import print_next
from resnest_backbones.errors import CheckpointError, ConfigError, add_verbose, check_writable
from resnest_backbones.mmseg.engine.own_data import as_list, use_data_root
from resnest_backbones.mmseg.engine.resumable import make_resumable, repair_last_checkpoint
from resnest_backbones.mmseg.engine.run_setup import (
    adapt_to_cpu,
    add_checkpoint_hook,
    inner_datasets,
    require_whole_checkpoint,
    start_processes_on_cpu,
    type_name,
)

_PLUGIN = "resnest_backbones.mmseg"


# The command lines


def build_train_parser() -> argparse.ArgumentParser:
    """MMSegmentation's command line of training, and the options for a data set of one's own."""
    parser = argparse.ArgumentParser(
        description="Train a segmentor, as MMSegmentation's own tool does.",
        epilog="""
Examples:

  python tools/train_seg.py configs/mmseg/ade20k/deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480.py
  torchrun --nproc-per-node 4 tools/train_seg.py CONFIG --launcher pytorch
  python tools/train_seg.py CONFIG --data-root my_data --cfg-options train_dataloader.batch_size=2

  Go on after an interruption: the same command with --resume
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="the config file")
    parser.add_argument(
        "--work-dir", help="folder for logs and checkpoints (default: work_dirs/ and the config's name)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in the work dir, or from load_from if set"
    )
    parser.add_argument("--amp", action="store_true", help="train with automatic mixed precision")
    parser.add_argument(
        "--tensorboard",
        type=int,
        metavar="N",
        help="also write TensorBoard's files, and each N-th validation image drawn",
    )
    _add_common_options(parser)
    return parser


def build_test_parser() -> argparse.ArgumentParser:
    """MMSegmentation's command line of testing, and the options for a data set of one's own."""
    parser = argparse.ArgumentParser(
        description="Test a segmentor, as MMSegmentation's own tool does.",
        epilog="""
Examples:

  python tools/test_seg.py CONFIG CHECKPOINT --data-root my_data
  python tools/test_seg.py CONFIG CHECKPOINT --tta --show-dir drawn --out label_maps
  torchrun --nproc-per-node 4 tools/test_seg.py CONFIG CHECKPOINT --launcher pytorch
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="the config file")
    parser.add_argument("checkpoint", help="the checkpoint file")
    parser.add_argument("--work-dir", help="folder for logs and figures (default: work_dirs/ and the config's name)")
    parser.add_argument("--out", metavar="DIR", help="write the predicted label maps there, for evaluation elsewhere")
    parser.add_argument("--show", action="store_true", help="show the predictions in windows")
    parser.add_argument(
        "--show-dir", metavar="DIR", help="draw the predictions beside the annotations, in DIR/vis_data/vis_image"
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds to show each (default: %(default)s)")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: tta_model and tta_pipeline")
    _add_common_options(parser)
    return parser


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    add_config_options(parser)
    add_verbose(parser)
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="what starts the processes"
    )
    # torch.distributed.launch passes it in either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, ``--data-root`` and ``--classes``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='change settings of the config: a.b=1 a.c="[1,2]" a.d="[(1,2),(3,4)]", without blanks in a value',
    )
    group = parser.add_argument_group("a data set of your own, in ADE20K's layout, instead of the config's")
    group.add_argument(
        "--data-root", metavar="DIR", help="holds images/{training,validation} and annotations/{training,validation}"
    )
    group.add_argument(
        "--classes", metavar="FILE", help="one name per line (default: classes.txt or objectInfo150.txt in DIR)"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        ConfigError: the config file is not there, or an option lacks another one.
        CheckpointError: the checkpoint is not there.
    """
    if not os.path.isfile(args.config):
        raise ConfigError(f"config must be a file, got {args.config}")
    if hasattr(args, "launcher") and args.classes and not args.data_root:
        raise ConfigError("--classes goes with --data-root, which is not given")
    if hasattr(args, "checkpoint"):
        _check_file("checkpoint", args.checkpoint)


def _check_file(name: str, file: str) -> None:
    """A URL or scheme of MMEngine's may be anything."""
    if "://" not in file and not os.path.isfile(file):
        raise CheckpointError(f"{name} must be a file, got {file}")


# Training and testing


def train(args: argparse.Namespace) -> None:
    """Train as the options of ``build_train_parser`` say.

    Raises:
        ConfigError: the config is not there, or does not allow it.
        DatasetError: the data set is not whole.
        DatasetError: a label map is wrong.
        CheckpointError: a checkpoint is no such, or does not fit.
        WeightsError: published weights could not be had.
        DivergedError: the loss became NaN or infinite.
        OSError: the work dir cannot be written, or the disk is full.
    """
    check_arguments(args)
    cfg = _config_of_run(args)
    if args.amp:
        _turn_on_amp(cfg)
    if args.tensorboard is not None:
        _turn_on_tensorboard(cfg, args.tensorboard)
    cfg.resume = args.resume
    add_checkpoint_hook(cfg)
    if cfg.get("load_from"):
        _check_file("load_from", cfg.load_from)
    if cfg.resume:
        _take_seed_of_broken_run(cfg)
        require_whole_checkpoint(cfg)
    messages = [*adapt_to_cpu(cfg), *make_resumable(cfg)]
    _set_local_rank(args)
    start_processes_on_cpu(cfg.launcher, _timeout(cfg))
    if is_main_process():
        check_writable(cfg.work_dir)
        remove_unfinished(cfg.work_dir)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for message in messages:
        runner.logger.warning(message)
    runner.train()
    if is_main_process():
        model = Path(cfg.work_dir, "last_checkpoint")
        print_next(
            "test what was trained",
            *("tools/test_seg.py", args.config, model.read_text().strip() if model.is_file() else "CHECKPOINT"),
            *(("--data-root", args.data_root) if args.data_root else ()),
        )
    _end_processes()


def test(args: argparse.Namespace) -> dict[str, float]:
    """Test as the options of ``build_test_parser`` say, and print the figures in one line at the end.

    Returns:
        The figures, mIoU, aAcc and mAcc in percent for ``IoUMetric``.

    Raises:
        ConfigError, DatasetError, CheckpointError: as ``train``; also where the checkpoint does not fill
            the model.
    """
    check_arguments(args)
    cfg = _config_of_run(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    require_whole_checkpoint(cfg)
    if args.show or args.show_dir:
        _turn_on_drawing(cfg, args)
    if args.tta:
        use_test_time_augmentation(cfg)
    if args.out is not None:
        for evaluator in as_list(cfg.test_evaluator):
            evaluator.update(output_dir=args.out, keep_results=True)
    messages = adapt_to_cpu(cfg)
    _set_local_rank(args)
    start_processes_on_cpu(cfg.launcher, _timeout(cfg))
    runner = Runner.from_cfg(cfg)
    for message in messages:
        runner.logger.warning(message)
    if args.out is not None:
        _check_names_differ(runner.test_loop.dataloader.dataset)
    figures = runner.test()
    if is_main_process() and figures:
        order = sorted(figures, key=lambda name: not name.endswith("mIoU"))  # the main figure first, else as they come
        print_next("see what it finds", "tools/infer_seg.py", args.config, args.checkpoint, "IMAGE_OR_FOLDER")
        print(", ".join(f"{name} {figures[name]:.2f}" for name in order), flush=True)
    _end_processes()
    return figures


def _check_names_differ(dataset: Any) -> None:
    """MMSegmentation names the label maps that it writes by their images alone, without folders."""
    first: dict[str, str] = {}
    for image in (dataset.get_data_info(i)["img_path"] for i in range(len(dataset))):
        if first.setdefault(Path(image).stem, image) != image:
            raise ConfigError(f"--out needs images of different names, got {first[Path(image).stem]} and {image}")


def load_config(args: argparse.Namespace) -> Config:
    """The config file with ``--cfg-options``.

    Raises:
        ConfigError: a file that it builds on is not there.
    """
    try:
        cfg = Config.fromfile(args.config)
    except FileNotFoundError as error:
        raise ConfigError(f"{args.config}: {error}") from error
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def _config_of_run(args: argparse.Namespace) -> Config:
    """The config with what the command line changes in it: options, data set, launcher, work dir."""
    cfg = load_config(args)
    if args.data_root:
        use_data_root(cfg, args.data_root, args.classes)
    # Also for a config without this package in it: the run's dumped config names modules of it.
    imports = cfg.get("custom_imports") or {"imports": []}
    modules = [imports["imports"]] if isinstance(imports["imports"], str) else list(imports["imports"])
    cfg.custom_imports = {**imports, "imports": [*modules, *({_PLUGIN} - set(modules))]}
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = os.path.join("work_dirs", Path(args.config).stem)
    return cfg


def _turn_on_amp(cfg: Config) -> None:
    kind = type_name(cfg.optim_wrapper) or "OptimWrapper"
    if kind not in ("OptimWrapper", "AmpOptimWrapper", "CPUAmpOptimWrapper"):
        raise ConfigError(
            f"--amp needs an optim_wrapper of type OptimWrapper or AmpOptimWrapper, the config has {kind}"
        )
    if kind == "OptimWrapper":
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"


def _take_seed_of_broken_run(cfg: Config) -> None:
    """MMEngine restores the seed after the loader of the training data was made, which needs it."""
    file = cfg.get("load_from") or repair_last_checkpoint(cfg.work_dir)
    if file and (cfg.get("randomness") or {}).get("seed") is None:
        checkpoint = CheckpointLoader.load_checkpoint(str(file), map_location="cpu")
        seed = checkpoint.get("meta", {}).get("seed")
        if seed is not None:
            cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}


def _visualization_hook(cfg: Config, options: str) -> Any:
    hook = cfg.get("default_hooks", {}).get("visualization")
    if not hook:
        raise ConfigError(
            f"{options} a hook in the config: "
            "default_hooks = dict(..., visualization=dict(type='SegVisualizationHook'))"
        )
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


def _turn_on_drawing(cfg: Config, args: argparse.Namespace) -> None:
    hook = _visualization_hook(cfg, "--show and --show-dir need")
    hook.draw, hook.interval = True, 1  # some releases would draw each fiftieth image only
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir:
        if not cfg.get("visualizer"):
            raise ConfigError("--show-dir needs a visualizer in the config")
        cfg.visualizer.save_dir = args.show_dir


def use_test_time_augmentation(cfg: Config) -> None:
    """Make the config's model and test pipeline those of its ``tta_model`` and ``tta_pipeline``.

    Raises:
        ConfigError: it has none.
    """
    missing = [name for name in ("tta_model", "tta_pipeline") if not cfg.get(name)]
    if missing:
        raise ConfigError(f"--tta needs {' and '.join(missing)} in the config")
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def _timeout(cfg: Config) -> float | None:
    """The config's seconds until a process that waits for another one fails, as MMEngine reads them."""
    return cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")


def _set_local_rank(args: argparse.Namespace) -> None:
    if args.launcher != "none":
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))


def _end_processes() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
