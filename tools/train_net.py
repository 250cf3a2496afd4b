#!/usr/bin/env python
"""Train or evaluate a detector: Detectron2's own command line, with a ResNeSt, from a YAML config or a LazyConfig."""

from resnest_backbones.commands.train_net import build_argument_parser, check_arguments, run

__all__ = ["build_argument_parser", "check_arguments", "run"]

if __name__ == "__main__":
    run()
