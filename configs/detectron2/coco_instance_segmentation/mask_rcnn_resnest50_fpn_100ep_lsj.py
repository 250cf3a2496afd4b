# Mask R-CNN, ResNeSt-50, Large-Scale Jitter, 100 epochs of 64 images per step, from scratch: Detectron2's own baseline
# with another backbone. No published metrics.
from detectron2 import model_zoo

from .._base_.lazy.backbone import bottom_up as _trunk
from .._base_.lazy.backbone import pixels as _pixels

_baseline = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
model, dataloader, train = _baseline.model, _baseline.dataloader, _baseline.train
lr_multiplier, optimizer = _baseline.lr_multiplier, _baseline.optimizer
model.update(_pixels)
model.backbone.bottom_up = _trunk
model.backbone.bottom_up.freeze_at = 0  # nothing in it is pre-trained
dataloader.train.mapper.image_format = model.input_format
