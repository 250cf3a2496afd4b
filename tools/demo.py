#!/usr/bin/env python
"""Predict on images, folders, videos or a camera with a trained or exported model: drawings, label maps and JSON."""

from resnest_backbones.commands.demo import build_argument_parser, run

__all__ = ["build_argument_parser", "run"]

if __name__ == "__main__":
    run()
