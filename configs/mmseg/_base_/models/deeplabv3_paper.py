# The paper's DeepLabV3 (PyTorch-Encoding): 256 channels, 1x1 projection, then a 3x3 convolution, align_corners. Not
# MMSegmentation's ASPPHead (512 channels, 3x3 bottleneck), which is in deeplabv3_mmseg.py.
_base_ = "paper.py"
model = dict(
    decode_head=dict(
        type="PaperASPPHead",
        in_channels=2048,
        in_index=3,
        dilations=(1, 12, 24, 36),
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
)
