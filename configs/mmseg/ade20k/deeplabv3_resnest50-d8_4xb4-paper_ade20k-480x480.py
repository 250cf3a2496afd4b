# DeepLabV3, ResNeSt-50, ADE20K: published mIoU 45.12 and pixel accuracy 81.17, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# The published scripts disagree; here: lr 0.01 and 120 epochs of train_dist.py, the script current at the time,
# not 0.004 and 180 of train.py.
_base_ = [
    "../_base_/models/deeplabv3_paper.py",
    "../_base_/datasets/ade20k_480x480.py",
    "../_base_/schedules/paper_120e.py",
    "../_base_/runtime/epochs.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
