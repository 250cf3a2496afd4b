#!/usr/bin/env python
"""Convert a ResNeSt checkpoint from any published layout to another: ``resnest-backbones convert`` in a checkout."""

from __future__ import annotations

import sys

from resnest_backbones.cli import main


def run(arguments: list[str] | None = None) -> None:
    main(["convert", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    run()
