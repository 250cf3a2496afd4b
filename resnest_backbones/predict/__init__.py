"""Trained and exported models on images and videos.

``load.py`` finds a trained model by name or folder; ``predictor.py`` predicts, with a model of either framework or an
exported file; ``draw.py`` draws predictions, ``evaluate.py`` measures them; ``sources.py`` reads images, folders,
videos and cameras. The command line is ``tools/demo.py``.
"""

from resnest_backbones.predict.load import load
from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor

__all__ = ["Detections", "LabelMap", "Predictor", "load"]
