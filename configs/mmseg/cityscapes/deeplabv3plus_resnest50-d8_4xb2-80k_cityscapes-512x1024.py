# DeepLabV3+, ResNeSt-50, Cityscapes, as MMSegmentation trains it: no published metrics; ResNeSt-101 has some.
_base_ = [
    "../_base_/models/deeplabv3plus_mmseg.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/80k.py",
    "../_base_/runtime/iterations.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
)
