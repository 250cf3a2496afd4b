# PyTorch-Encoding's training of ADE20K: SGD, heads at ten times the learning rate, polynomial decay in every iteration,
# no warm-up. lr and epochs are those of train_dist.py for a batch of 16 (see the headers of the configs).
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(custom_keys={"decode_head": dict(lr_mult=10.0), "auxiliary_head": dict(lr_mult=10.0)}),
    clip_grad=None,
)
# Counted over the epochs of train_cfg, whatever the size of the dataset. In iteration t of T the original has
# lr * (1 - t / T) ** 0.9 and MMEngine lr * (1 - t / (T - 1)) ** 0.9: MMEngine's last step has the rate 0.
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=120, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=True, interval=10, max_keep_ckpts=2, save_best="mIoU"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
