# Training counted in iterations, and MMSegmentation's own averaging over scales and flips (test_seg.py --tta).
_base_ = "common.py"
log_processor = dict(by_epoch=False)
tta_model = dict(type="SegTTAModel")
