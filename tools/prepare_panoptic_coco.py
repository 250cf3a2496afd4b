#!/usr/bin/env python
"""Make the semantic label maps that panoptic FPN trains on, from COCO's panoptic annotations.

python tools/prepare_panoptic_coco.py --data-root datasets
"""

from reproduction.panoptic_coco import main

if __name__ == "__main__":
    main()
