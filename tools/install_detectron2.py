#!/usr/bin/env python
"""Install Detectron2 into the environment of the Python that runs this file."""

from resnest_backbones.commands.install_detectron2 import run

__all__ = ["run"]

if __name__ == "__main__":
    run()
