# Cascade Mask R-CNN as in the original's d2/README.md: SyncBN everywhere, four convolutions in each box head.
from detectron2 import model_zoo

from .backbone import bottom_up, pixels

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.update(pixels)
model.backbone.update(bottom_up=bottom_up, norm="SyncBN")
model.proposal_generator.post_nms_topk = (2000, 1000)
for head in model.roi_heads.box_heads:
    head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="SyncBN")
model.roi_heads.mask_head.conv_norm = "SyncBN"
