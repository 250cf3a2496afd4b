# DeepLabV3+, ResNeSt-101, ADE20K: published mIoU 46.47 at one scale, 47.27 at several with flip (MMSegmentation's
# configs/resnest/README.md), made with MMSegmentation's own ResNeSt, without average pools of stride 1.
_base_ = "./deeplabv3plus_resnest50-d8_4xb4-160k_ade20k-512x512.py"
model = dict(
    data_preprocessor=dict(weights="resnest101"),
    backbone=dict(name="resnest101", avg_pool_at_stride_1=False, init_cfg=dict(checkpoint="resnest://resnest101")),
)
