# The paper's DeepLabV3, small enough to train from scratch on a CPU in minutes: ResNeSt-14 without res5, a quarter of
# the head's width, dilations for a third of the size. init_cfg is empty, so that settings can name weights.
_base_ = "deeplabv3_paper.py"
model = dict(
    data_preprocessor=dict(weights="resnest14"),
    backbone=dict(name="resnest14", out_indices=(1, 2), init_cfg=dict(_delete_=True)),
    decode_head=dict(in_channels=1024, in_index=1, channels=64, dilations=(1, 2, 4, 6), project_dropout=0.1),
    auxiliary_head=dict(in_channels=512, in_index=0, channels=64),
    test_cfg=dict(_delete_=True, mode="whole"),
)
