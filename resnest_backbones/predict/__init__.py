"""Trained and exported models on images and videos.

``predictor.py`` finds a trained model, of either framework or an exported file, and predicts; ``sources.py`` reads
images, folders, videos and cameras; ``draw.py`` draws predictions, ``results.py`` writes and ``evaluate.py`` measures
them. The command line is ``tools/demo.py``.
"""

from resnest_backbones.predict.predictor import Detections, LabelMap, Predictor, load

__all__ = ["Detections", "LabelMap", "Predictor", "load"]
