"""Train or evaluate a detector: Detectron2's own command line, with a ResNeSt, from a YAML config or a LazyConfig."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnest_backbones.commands import named, print_next
from resnest_backbones.errors import add_verbose, one_line_errors
from resnest_backbones.model_zoo import get_config_file
from resnest_backbones.outputs import how_to_resume
from resnest_backbones.train import detectron2_output_dir, train_detector

_CUSTOM_DATASET = ("train_json", "train_images", "val_json", "val_images")
_EPILOG = """
Examples:

  Train a recipe on 8 GPUs, COCO in $DETECTRON2_DATASETS:
    python tools/train_net.py --num-gpus 8 \\
        --config-file faster_rcnn_resnest50_fpn_1x

  Train the same network on a few thousand of your own images, on one GPU:
    python tools/train_net.py --config-file faster_rcnn_resnest50_fpn_1x_1gpu \\
        --train-json train.json --train-images images/ --val-json val.json --val-images images/ \\
        SOLVER.MAX_ITER 5000 SOLVER.STEPS "(3500,4500)" SOLVER.WARMUP_ITERS 500

  Without a GPU, train a small network from random weights in ten minutes: the same with
    --config-file faster_rcnn_resnest14_fpn_cpu

  Resume after an interruption: the same command with --resume
  Evaluate: the same command with --eval-only MODEL.WEIGHTS output/model_final.pth
"""


def build_argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's command line, with options for a custom dataset and a time-out."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="a config, .yaml or .py, or the name of a packaged one")
    add("--resume", action="store_true", help="resume from the last checkpoint in the output folder")
    add("--eval-only", action="store_true", help="evaluate instead of training")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs, or processes on the CPU, per machine (default: 1)")
    add("--num-machines", type=int, default=1, metavar="N", help="machines (default: 1)")
    add("--machine-rank", type=int, default=0, metavar="N", help="rank of this machine, starting at 0 (default: 0)")
    text = "rendezvous address, tcp://HOST:PORT of the first machine (default: a free local port)"
    add("--dist-url", default="auto", metavar="URL", help=text)
    text = "how long to wait for an unresponsive process before failing (default: %(default)g)"
    add("--dist-timeout", type=float, default=1800.0, metavar="SECONDS", help=text)
    add_verbose(parser)
    group = parser.add_argument_group("a custom dataset in COCO format, instead of the config's")
    group.add_argument("--train-json", metavar="FILE", help="training annotations; these define the classes")
    group.add_argument("--train-images", metavar="DIR", help="folder of their images")
    group.add_argument("--val-json", metavar="FILE", help="validation annotations")
    group.add_argument("--val-images", metavar="DIR", help="folder of their images")
    text = "config overrides, after all options: KEY VALUE pairs for .yaml, key=value for .py"
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=text)
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot; raise a ``ValueError`` that names the option."""
    if not args.config_file:
        raise ValueError("--config-file must be given: a file, or the name of a packaged config")
    if not 0 < args.dist_timeout < float("inf"):
        raise ValueError(f"--dist-timeout must be above 0, got {args.dist_timeout:g}")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--num-machines above 1 needs --dist-url tcp://HOST:PORT of the first machine")
    needed = _CUSTOM_DATASET[2:] if args.eval_only else _CUSTOM_DATASET
    missing = [name for name in needed if not getattr(args, name)]
    if missing and any(getattr(args, name) for name in _CUSTOM_DATASET):
        options = ["--" + name.replace("_", "-") for name in (*needed, *missing)]
        whole, absent = ", ".join(options[: len(needed)]), ", ".join(options[len(needed) :])
        raise ValueError(f"{whole} must be given together, {absent} are missing")


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and run it in as many processes as it wants."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    try:
        check_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    folder = Path("output")

    def interrupted() -> str:
        return "" if args.eval_only else how_to_resume(folder)

    with one_line_errors(parser.prog, verbose=args.verbose, interrupted=interrupted):
        args.config_file = get_config_file(args.config_file)
        folder = detectron2_output_dir(args.config_file, args.opts)
        train_detector(
            args.config_file,
            train=(args.train_json, args.train_images) if args.train_json else None,
            val=(args.val_json, args.val_images) if args.val_json else None,
            opts=args.opts,
            resume=args.resume,
            eval_only=args.eval_only,
            verbose=args.verbose,
            timeout=args.dist_timeout,
            **{name: getattr(args, name) for name in ("num_gpus", "num_machines", "machine_rank", "dist_url")},
        )
    if not args.eval_only and not args.config_file.endswith(".py") and args.machine_rank == 0:
        print_next(
            "look at its predictions",
            *("tools/demo.py", "--config", folder / "config.yaml", "--checkpoint", folder / "model_final.pth"),
            *(("--classes", args.train_json) if args.train_json else ()),
            "IMAGE_OR_FOLDER",
        )
