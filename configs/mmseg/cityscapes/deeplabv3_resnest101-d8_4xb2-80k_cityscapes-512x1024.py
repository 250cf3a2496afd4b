# DeepLabV3, ResNeSt-101, Cityscapes: published mIoU 79.67 at one scale, 80.51 at several with flip (MMSegmentation's
# configs/resnest/README.md), made with MMSegmentation's own ResNeSt. At stride 8 that is another network, without the
# 3x3 average pool of dilated stages; this one is the original's.
_base_ = "./deeplabv3_resnest50-d8_4xb2-80k_cityscapes-512x1024.py"
model = dict(
    data_preprocessor=dict(weights="resnest101"),
    backbone=dict(name="resnest101", init_cfg=dict(checkpoint="resnest://resnest101")),
)
