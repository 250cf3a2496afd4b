# The backbone of every config. A leaf for another network replaces three names: the weights, whose record knows mean,
# std and channel order of the images; the network; and the checkpoint. It also gives the preprocessor the crop's size.
norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="ResNeStDataPreProcessor", weights="resnest50"),
    backbone=dict(
        type="ResNeStBackbone",
        name="resnest50",
        out_indices=(0, 1, 2, 3),
        output_stride=8,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=dict(type="Pretrained", checkpoint="resnest://resnest50"),
    ),
    train_cfg=dict(),
)
