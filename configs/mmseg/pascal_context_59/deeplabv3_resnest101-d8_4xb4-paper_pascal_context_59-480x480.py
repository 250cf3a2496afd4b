# DeepLabV3, ResNeSt-101, Pascal-Context-59: published mIoU 56.49 and pixel accuracy 81.91, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# lr 0.001 and 80 epochs, in which the published scripts agree; everything else as for ADE20K.
_base_ = "./deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480.py"
model = dict(
    data_preprocessor=dict(weights="resnest101"),
    backbone=dict(name="resnest101", init_cfg=dict(checkpoint="resnest://resnest101")),
)
