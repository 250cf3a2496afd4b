# What every config needs: our modules, the renaming of checkpoints in other layouts, logging. The rest of the runtime
# is in iterations.py (MMSegmentation's convention) and epochs.py (the paper's recipes).
custom_imports = dict(imports=["resnest_backbones.mmseg"], allow_failed_imports=False)
custom_hooks = [dict(type="ResNeStCheckpointHook")]
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_level = "INFO"
load_from = None
resume = False
