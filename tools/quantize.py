#!/usr/bin/env python
"""Quantize an exported ONNX detector or segmentor to int8, calibrated on your images, and measure what that costs."""

from resnest_backbones.commands.quantize import build_argument_parser, run

__all__ = ["build_argument_parser", "run"]

if __name__ == "__main__":
    run()
