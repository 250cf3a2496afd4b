# The paper's DeepLabV3 with ResNeSt-50 on a custom dataset and one GPU: no published metrics. Start it with
# `python tools/train_seg.py FILE --data-root ROOT`; ROOT in ADE20K's layout, its classes named in ROOT/classes.txt.
_base_ = [
    "../_base_/models/deeplabv3_paper.py",
    "../_base_/datasets/custom_512x512.py",
    "../_base_/schedules/paper_20k.py",
    "../_base_/runtime/iterations.py",
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=_base_.num_classes),
    auxiliary_head=dict(num_classes=_base_.num_classes),
    test_cfg=dict(_delete_=True, mode="whole"),
)
