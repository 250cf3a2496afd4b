# DeepLabV3, ResNeSt-269, ADE20K: published mIoU 47.6 and pixel accuracy 82.62, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# The published scripts disagree; here: lr 0.01 and 120 epochs of train_dist.py, the script current at the time,
# not 0.004 and 180 of train.py.
_base_ = "./deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480.py"
model = dict(
    data_preprocessor=dict(weights="resnest269"),
    backbone=dict(name="resnest269", init_cfg=dict(checkpoint="resnest://resnest269")),
)
