# DeepLabV3, ResNeSt-50, Pascal-Context-59: published mIoU 53.19 and pixel accuracy 80.41, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# lr 0.001 and 80 epochs, in which the published scripts agree; everything else as for ADE20K.
_base_ = [
    "../_base_/models/deeplabv3_paper.py",
    "../_base_/datasets/pascal_context_59_480x480.py",
    "../_base_/schedules/paper_80e.py",
    "../_base_/runtime/epochs.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
