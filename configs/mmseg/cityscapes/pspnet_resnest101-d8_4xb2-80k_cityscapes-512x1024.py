# PSPNet, ResNeSt-101, Cityscapes: published mIoU 78.57 at one scale, 79.19 at several with flip (MMSegmentation's
# configs/resnest/README.md), made with MMSegmentation's own ResNeSt, without average pools of stride 1.
_base_ = "./pspnet_resnest50-d8_4xb2-80k_cityscapes-512x1024.py"
model = dict(
    data_preprocessor=dict(weights="resnest101"),
    backbone=dict(name="resnest101", avg_pool_at_stride_1=False, init_cfg=dict(checkpoint="resnest://resnest101")),
)
