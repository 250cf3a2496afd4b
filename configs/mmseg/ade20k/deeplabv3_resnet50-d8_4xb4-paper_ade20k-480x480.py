# DeepLabV3, ResNet-50 (baseline), ADE20K: published mIoU 42.1 and pixel accuracy 80.39, six scales and flip
# (github.com/zhanghang1989/ResNeSt README.md).
# lr 0.01 and 120 epochs as for ResNeSt; its own command was not published. The stem is ResNetV1c's, as
# deeplabv3_paper_resnet.py explains.
_base_ = [
    "../_base_/models/deeplabv3_paper_resnet.py",
    "../_base_/datasets/ade20k_480x480.py",
    "../_base_/schedules/paper_120e.py",
    "../_base_/runtime/epochs.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
