# PyTorch-Encoding's training of Pascal-Context: as for ADE20K, with a tenth of the learning rate.
_base_ = "paper_120e.py"
optim_wrapper = dict(optimizer=dict(lr=0.001))
train_cfg = dict(max_epochs=80)
