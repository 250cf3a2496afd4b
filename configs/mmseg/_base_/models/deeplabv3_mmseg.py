# MMSegmentation's DeepLabV3, as in its configs: 512 channels and a 3x3 bottleneck. Not the paper's network, which
# is in deeplabv3_paper.py.
_base_ = "mmseg.py"
model = dict(
    decode_head=dict(
        type="ASPPHead",
        in_channels=2048,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=_base_.norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
