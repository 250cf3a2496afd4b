#!/usr/bin/env python
"""Train or evaluate a detector: Detectron2's own command line, with a ResNeSt, from a YAML config or a LazyConfig."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from detectron2.engine import launch
from torch.multiprocessing import ProcessRaisedException

from resnest_backbones.cli import print_next
from resnest_backbones.detectron2.engine.train import build_argument_parser, check_arguments, is_lazy, load_yaml, main
from resnest_backbones.errors import one_line_errors


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and run it in as many processes as it wants."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    try:
        check_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    with one_line_errors(parser.prog, ProcessRaisedException, verbose=args.verbose):
        # Before the training, during which the config may change.
        folder = None if args.eval_only or is_lazy(args) else Path(load_yaml(args).OUTPUT_DIR)
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            timeout=timedelta(seconds=args.dist_timeout),
            args=(args,),
        )
    if folder is not None and args.machine_rank == 0:
        print_next(
            "look at its predictions",
            *("tools/demo.py", "--config", folder / "config.yaml", "--checkpoint", folder / "model_final.pth"),
            *(("--classes", args.train_json) if args.train_json else ()),
            "IMAGE_OR_FOLDER",
        )


if __name__ == "__main__":
    run()
