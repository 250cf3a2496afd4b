"""Pre-training of a network on a classification dataset, and the published evaluation: behind ``tools/pretrain.py``."""
