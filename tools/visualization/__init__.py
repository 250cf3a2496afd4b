"""What ``tools/visualize.py`` draws of a trained model, and the sheets of ``make demo``."""
