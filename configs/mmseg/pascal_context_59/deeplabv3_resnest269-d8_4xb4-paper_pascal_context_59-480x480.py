# DeepLabV3, ResNeSt-269, Pascal-Context-59: published mIoU 58.92 and pixel accuracy 83.06, six scales and flip
# (PyTorch-Encoding's docs/source/model_zoo/segmentation.rst).
# lr 0.001 and 80 epochs, in which the published scripts agree; everything else as for ADE20K.
_base_ = "./deeplabv3_resnest50-d8_4xb4-paper_pascal_context_59-480x480.py"
model = dict(
    data_preprocessor=dict(weights="resnest269"),
    backbone=dict(name="resnest269", init_cfg=dict(checkpoint="resnest://resnest269")),
)
