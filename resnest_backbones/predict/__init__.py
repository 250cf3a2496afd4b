"""Trained models on pictures and films: what ``tools/demo.py`` does.

``predictor.py`` looks at an image, with a model of either framework or an exported file; ``prepare.py`` brings images
to the model and results back; ``sources.py`` has images, folders, films and cameras; ``draw.py`` draws; ``cli.py`` is
the command line.
"""

from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor

__all__ = ["Detections", "LabelMap", "Predictor"]
