#!/usr/bin/env python
"""Measure how long features res2 to res5 take, side by side with the peers that are installed, in one run.

Each round runs every network once, one after the other; medians over the rounds are compared. "Limit" is what the
convolutions alone would take at the rate of one large 3x3 convolution, measured in the same rounds; of a training step,
three times that. Training steps show the memory that they keep for backward, on a GPU also the peak of each.

python tools/benchmark.py --networks resnest50 --sizes 224x224 800x800 --batches 1 8 --output-dir benchmark
python tools/benchmark.py --train --sizes 512 --batches 2
python tools/benchmark.py --detector --sizes 800x1216
"""

from benchmarks.cli import main

if __name__ == "__main__":
    main(description=__doc__)
