#!/usr/bin/env python
"""Draw what a segmentor sees: label maps over images, with a legend of the classes."""

from resnest_backbones.commands.infer_seg import build_argument_parser, run

__all__ = ["build_argument_parser", "run"]

if __name__ == "__main__":
    run()
