# cascade_rcnn_resnest50_fpn_1x.yaml as a LazyConfig: the same model, data and schedule.
from .._base_.lazy.boxes import dataloader
from .._base_.lazy.mask_cascade_rcnn import model
from .._base_.lazy.runtime import lr_multiplier, optimizer, train

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_key]
