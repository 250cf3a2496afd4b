"""Train a segmentor: MMSegmentation's own command line, with a ResNeSt, a custom dataset, on any machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnest_backbones.commands import named, print_next
from resnest_backbones.errors import add_verbose, one_line_errors
from resnest_backbones.outputs import how_to_resume
from resnest_backbones.train import train_segmentor


def build_argument_parser() -> argparse.ArgumentParser:
    """Return MMSegmentation's command line of training, and the options for a custom dataset."""
    parser = build_parser_of_both(
        "Train",
        "python tools/train_seg.py configs/mmseg/ade20k/deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480.py",
        "torchrun --nproc-per-node 4 tools/train_seg.py CONFIG --launcher pytorch",
        "python tools/train_seg.py CONFIG --data-root my_data --cfg-options train_dataloader.batch_size=2",
        "Without a GPU, a small network: the CONFIG deeplabv3_resnest14-d8_1xb8-cpu_custom-128x128",
        "Resume after an interruption: the same command with --resume",
    )
    add = parser.add_argument
    add("--work-dir", help="folder for logs and checkpoints (default: work_dirs/ and the config's name)")
    resume = "resume from the last checkpoint in the work dir, or from load_from if set"
    add("--resume", action="store_true", help=resume)
    add("--amp", action="store_true", help="train with automatic mixed precision")
    tensorboard = "also write TensorBoard files, and draw every Nth validation image"
    add("--tensorboard", type=int, metavar="N", help=tensorboard)
    return parser


def build_parser_of_both(verb: str, *examples: str) -> argparse.ArgumentParser:
    """Return what the command lines of training and testing have."""
    parser = argparse.ArgumentParser(
        description=f"{verb} a segmentor, as MMSegmentation's own tool does.",
        epilog="\n  ".join(["Examples:\n", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a config file, or the name of a packaged config")
    add_config_options(parser)
    add_verbose(parser)
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="process launcher"
    )
    # torch.distributed.launch passes it in either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, ``--data-root`` and ``--classes``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help='config overrides: a.b=1 a.c="[1,2]" a.d="[(1,2),(3,4)]", without spaces in a value',
    )
    group = parser.add_argument_group("a custom dataset in ADE20K's layout, instead of the config's")
    group.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder with images/{training,validation} and annotations/{training,validation}",
    )
    group.add_argument(
        "--classes", metavar="FILE", help="class names, one per line (default: classes.txt or objectInfo150.txt in DIR)"
    )


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line and train."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)

    def interrupted() -> str:
        return how_to_resume(args.work_dir or Path("work_dirs", Path(args.config).stem))

    with one_line_errors(parser.prog, verbose=args.verbose, interrupted=interrupted):
        done = train_segmentor(**vars(args))
    if done.model is not None:
        data = ("--data-root", args.data_root) if args.data_root else ()
        print_next("test the trained model", "tools/test_seg.py", args.config, done.model, *data)
