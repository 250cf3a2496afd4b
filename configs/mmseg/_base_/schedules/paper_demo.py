# The paper's optimizer and decay for some minutes on a CPU, without pre-trained weights: a trunk that starts from
# nothing takes a higher learning rate.
_base_ = "paper_20k.py"
optim_wrapper = dict(optimizer=dict(lr=0.02))
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=400, by_epoch=False)]
train_cfg = dict(max_iters=400, val_interval=100)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=100, max_keep_ckpts=1, save_best=None),
)
randomness = dict(seed=1)
