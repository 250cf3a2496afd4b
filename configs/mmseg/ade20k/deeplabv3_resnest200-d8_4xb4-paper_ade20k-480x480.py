# DeepLabV3, ResNeSt-200, ADE20K: published mIoU 48.36 and pixel accuracy 82.45, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# The published scripts disagree; here: lr 0.01 of train_dist.py, the script current at the time, not 0.004 of
# train.py. The command for this network says 180 epochs.
_base_ = "./deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480.py"
model = dict(
    data_preprocessor=dict(weights="resnest200"),
    backbone=dict(name="resnest200", init_cfg=dict(checkpoint="resnest://resnest200")),
)
train_cfg = dict(max_epochs=180)
