# Data for detection: no masks, and the short side of training images drawn from the range 640-800.
from .runtime import dataloader

dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].update(short_edge_length=(640, 800), sample_style="range")
