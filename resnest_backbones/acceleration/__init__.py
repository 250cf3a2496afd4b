"""A trained or training model made fast, equal to rounding, with the interface that it had."""

from resnest_backbones.acceleration.compilation import accelerate
from resnest_backbones.acceleration.inference import OptimizationError, optimize_for_inference

__all__ = ["OptimizationError", "accelerate", "optimize_for_inference"]
