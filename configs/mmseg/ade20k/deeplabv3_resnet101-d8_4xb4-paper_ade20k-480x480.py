# DeepLabV3, ResNet-101 (baseline), ADE20K: published mIoU 44.14 and pixel accuracy 81.11, six scales and flip
# (github.com/zhanghang1989/ResNeSt README.md).
# lr 0.01 and 120 epochs as for ResNeSt; its own command was not published. The stem is ResNetV1c's, as
# deeplabv3_paper_resnet.py explains.
_base_ = "./deeplabv3_resnet50-d8_4xb4-paper_ade20k-480x480.py"
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint="open-mmlab://resnet101_v1c")))
