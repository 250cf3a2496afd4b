# DeepLabV3+, ResNeSt-200, Cityscapes validation, trained without Mapillary: published mIoU 82.7
# (github.com/zhanghang1989/ResNeSt README.md). Its network, schedule, crop and evaluation were not published;
# here: MMSegmentation's DeepLabV3+ and its 80k schedule.
_base_ = "./deeplabv3plus_resnest50-d8_4xb2-80k_cityscapes-512x1024.py"
model = dict(
    data_preprocessor=dict(weights="resnest200"),
    backbone=dict(name="resnest200", init_cfg=dict(checkpoint="resnest://resnest200")),
)
