"""A trained or training model made fast, equal to rounding, with the same interface."""

from resnest_backbones.acceleration.compilation import accelerate
from resnest_backbones.acceleration.device import resolve_device
from resnest_backbones.acceleration.inference import optimize_for_inference
from resnest_backbones.errors import ExportError

__all__ = ["ExportError", "accelerate", "optimize_for_inference", "resolve_device"]
