# Pascal-Context, 59 classes (0 of the label maps is no class and ignored), as PyTorch-Encoding trains and evaluates it.
crop_size = (480, 480)
num_classes = 59
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadCheckedAnnotations", num_classes=num_classes),
    dict(type="RandomFlip", prob=0.5),
    # The long side is int(520 * ratio): every integer from 260 to 1040 with the same probability.
    dict(type="RandomResize", scale=(520, 520), ratio_range=(0.5, 1041 / 520), keep_ratio=True, backend="pillow"),
    # Black and ignored, as the original pads what is smaller than the crop.
    dict(type="Pad", size=crop_size, pad_val=dict(img=0, seg=255)),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="PackSegInputs"),
]
# Scale 1.0 of the published evaluation: the long side is 520. The labels are loaded after Resize, so that the
# prediction is compared at their own size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(520, 520), keep_ratio=True, backend="pillow"),
    dict(type="LoadCheckedAnnotations", num_classes=num_classes),
    dict(type="PackSegInputs"),
]
# The published evaluation takes the image at its own size: PaperTTAModel makes the six scales of it.
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadCheckedAnnotations", num_classes=num_classes),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    drop_last=True,  # as the original's loader
    dataset=dict(
        type="PascalContextDataset59",
        data_root="data/VOCdevkit/VOC2010/",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
        ann_file="ImageSets/SegmentationContext/train.txt",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="PascalContextDataset59",
        data_root="data/VOCdevkit/VOC2010/",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClassContext"),
        ann_file="ImageSets/SegmentationContext/val.txt",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
