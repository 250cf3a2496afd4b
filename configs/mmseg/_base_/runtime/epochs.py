# Training counted in epochs, and the published evaluation of PyTorch-Encoding (test_seg.py --tta): six scales, flip,
# windows of 480 every 320 pixels; its numbers are the defaults of PaperTTAModel.
_base_ = "common.py"
log_processor = dict(by_epoch=True)
tta_model = dict(type="PaperTTAModel")
