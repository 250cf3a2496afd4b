"""Test a segmentor: MMSegmentation's own command line, with a ResNeSt, a custom dataset, on any machine."""

from __future__ import annotations

import argparse

from resnest_backbones.commands import named, print_next
from resnest_backbones.commands.train_seg import build_parser_of_both
from resnest_backbones.errors import one_line_errors
from resnest_backbones.model_zoo import get_config_file


def build_argument_parser() -> argparse.ArgumentParser:
    """Return MMSegmentation's command line of testing, and the options for a custom dataset."""
    parser = build_parser_of_both(
        "Test",
        "python tools/test_seg.py CONFIG CHECKPOINT --data-root my_data",
        "python tools/test_seg.py CONFIG CHECKPOINT --tta --show-dir drawn --out label_maps",
        "torchrun --nproc-per-node 4 tools/test_seg.py CONFIG CHECKPOINT --launcher pytorch",
    )
    add = parser.add_argument
    add("checkpoint", help="the checkpoint file")
    add("--work-dir", help="folder for logs and metrics (default: work_dirs/ and the config's name)")
    add("--out", metavar="DIR", help="write the predicted label maps to DIR, for evaluation elsewhere")
    add("--show", action="store_true", help="show the predictions in windows")
    show_dir = "draw predictions next to annotations, in DIR/vis_data/vis_image"
    add("--show-dir", metavar="DIR", help=show_dir)
    add("--wait-time", type=float, default=2, help="seconds to show each image (default: %(default)s)")
    add("--tta", action="store_true", help="test-time augmentation: tta_model and tta_pipeline")
    return parser


def run(arguments: list[str] | None = None, *, command: str | None = None) -> None:
    """Parse the command line, test, and print the metrics in one line at the end."""
    parser = named(build_argument_parser(), command)
    args = parser.parse_args(arguments)
    with one_line_errors(parser.prog, verbose=args.verbose):
        args.config = get_config_file(args.config)
        from resnest_backbones.mmseg.engine.train import test

        metrics = test(args)
    if metrics:
        print_next("look at its predictions", "tools/infer_seg.py", args.config, args.checkpoint, "IMAGE_OR_FOLDER")
        print(", ".join(f"{name} {value:.2f}" for name, value in metrics.items()), flush=True)
