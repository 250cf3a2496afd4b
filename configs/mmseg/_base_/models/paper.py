# What the paper's networks (PyTorch-Encoding's) share: the auxiliary head on res4 and the windows.
_base_ = "resnest.py"
model = dict(
    auxiliary_head=dict(
        type="PaperFCNHead",
        in_channels=1024,
        in_index=2,
        num_classes=150,
        norm_cfg=_base_.norm_cfg,
        # avg_non_ignore: the original's loss is the mean over the labeled pixels, not over all of them.
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True, loss_weight=0.2),
    ),
    # The windows of the published evaluation. Validation in training looks at one scale; the published metrics need
    # six scales and flip, which tta_model adds.
    test_cfg=dict(mode="slide", crop_size=(480, 480), stride=(320, 320)),
)
