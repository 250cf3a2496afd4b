# The baseline of the paper's tables: the same heads on a ResNet. PyTorch-Encoding calls its segmentation backbones
# resnet50s and resnet101s: three 3x3 convolutions of 64, 64 and 128 channels in the stem. MMSegmentation's ResNetV1c
# is that network with 32, 32 and 64, and its ImageNet weights are available, so it is used here. Dilation
# agrees: with contract_dilation the first block of res4 has dilation 1 and that of res5 dilation 2.
_base_ = "deeplabv3_paper.py"
model = dict(
    # The normalization of the ResNetV1c weights: ImageNet's mean and std, RGB in [0, 255].
    data_preprocessor=dict(
        _delete_=True,
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        _delete_=True,
        type="ResNetV1c",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=_base_.norm_cfg,
        norm_eval=False,
        style="pytorch",
        contract_dilation=True,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnet50_v1c"),
    ),
)
