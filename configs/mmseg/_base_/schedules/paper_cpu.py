# The paper's optimizer and decay for a few minutes on a CPU. A trunk without pre-trained weights needs a
# higher learning rate.
_base_ = "paper_20k.py"
optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(max_iters=500, val_interval=100)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=100, max_keep_ckpts=1, save_best=None),
)
