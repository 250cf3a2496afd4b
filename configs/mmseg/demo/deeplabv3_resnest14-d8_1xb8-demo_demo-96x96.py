# DeepLabV3, ResNeSt-14, what `make demo` trains from scratch on its label maps: no published metrics.
_base_ = [
    "../_base_/models/deeplabv3_paper_small.py",
    "../_base_/datasets/demo_96x96.py",
    "../_base_/schedules/paper_demo.py",
    "../_base_/runtime/iterations.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
