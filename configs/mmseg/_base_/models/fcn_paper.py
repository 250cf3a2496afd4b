# The paper's FCN (PyTorch-Encoding): one 3x3 convolution to 512 channels, no concatenation, align_corners.
_base_ = "paper.py"
model = dict(
    decode_head=dict(
        type="PaperFCNHead",
        in_channels=2048,
        in_index=3,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
)
