#!/usr/bin/env python
"""Train a segmentor: MMSegmentation's own command line, with a ResNeSt, a custom dataset, on any machine."""

from resnest_backbones.commands.train_seg import build_argument_parser, run

__all__ = ["build_argument_parser", "run"]

if __name__ == "__main__":
    run()
