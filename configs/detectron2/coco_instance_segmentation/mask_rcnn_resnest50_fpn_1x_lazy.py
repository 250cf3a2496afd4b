# mask_rcnn_resnest50_fpn_1x.yaml as a LazyConfig: the same model, data and schedule.
from .._base_.lazy.mask_rcnn import model
from .._base_.lazy.runtime import dataloader, lr_multiplier, optimizer, train
