#!/usr/bin/env python
"""Reproduce the rows of the published tables: list, data, run, report, smoke.

python tools/reproduce.py list
python tools/reproduce.py data faster_rcnn_resnest50_fpn_1x --data-root datasets
python tools/reproduce.py run faster_rcnn_resnest50_fpn_1x --num-gpus 8
python tools/reproduce.py report
python tools/reproduce.py smoke
"""

from __future__ import annotations

import sys

from reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main())
