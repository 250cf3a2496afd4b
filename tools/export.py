#!/usr/bin/env python
"""Export a trained model to ONNX, TorchScript, torch.export or AOTInductor, and compare the files with PyTorch."""

from resnest_backbones.commands.export import build_argument_parser, run

__all__ = ["build_argument_parser", "run"]

if __name__ == "__main__":
    run()
