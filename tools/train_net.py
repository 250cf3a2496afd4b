#!/usr/bin/env python
"""Train or evaluate a detector: Detectron2's own command line, with a ResNeSt, from a YAML config or a LazyConfig."""

from __future__ import annotations

import sys
import traceback
from datetime import timedelta

from detectron2.engine import launch
from torch.multiprocessing import ProcessRaisedException

from resnest_backbones.detectron2.engine.train import build_argument_parser, check_arguments, main
from resnest_backbones.errors import CheckpointError, ConfigError, DatasetError, DivergedError, WeightsError, message_of


def run(arguments: list[str] | None = None) -> None:
    """Parse the command line and start the processes."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    try:
        check_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    ours = (CheckpointError, ConfigError, DatasetError, DivergedError, OSError, WeightsError)
    try:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            timeout=timedelta(seconds=args.dist_timeout),
            args=(args,),
        )
    except (*ours, ProcessRaisedException) as error:
        if not isinstance(error, ours) and message_of(error) == str(error).strip():  # of a worker, and not one of ours
            raise
        if args.verbose:
            traceback.print_exc()
        sys.exit(f"{parser.prog}: error: {message_of(error)}")


if __name__ == "__main__":
    run()
