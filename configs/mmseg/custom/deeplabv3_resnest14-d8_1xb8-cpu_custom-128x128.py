# The paper's DeepLabV3, small, with ResNeSt-14, for a custom dataset on a CPU, from random weights in ten minutes: no
# published metrics. To change: SHORT_SIDE, an environment variable, is the short side of images; max_iters is how long.
_base_ = [
    "../_base_/models/deeplabv3_paper_small.py",
    "../_base_/datasets/custom_cpu.py",
    "../_base_/schedules/paper_cpu.py",
    "../_base_/runtime/iterations.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
train_cfg = dict(max_iters=300)
