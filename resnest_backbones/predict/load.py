"""Find a trained model by what a user has of it: a recipe's name, the output folder of a training, an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnest_backbones.choices import SUFFIXES
from resnest_backbones.errors import ConfigError, did_you_mean
from resnest_backbones.model_zoo import RECIPES, list_trained
from resnest_backbones.outputs import find_training
from resnest_backbones.predict.predictor import Predictor
from resnest_backbones.weights import SCHEME


def load(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    options: Sequence[str] = (),
    classes: str | None = None,
    device: str | None = None,
) -> Predictor:
    """Load a trained model for prediction.

    Args:
        model: a recipe that ``model_zoo.list_trained`` names, whose weights are downloaded; the output folder of a
            training (``OUTPUT_DIR`` of Detectron2, ``work_dir`` of MMSegmentation); or a file of ``tools/export.py``.
        checkpoint: another one than the recipe's published file, or than the last in the folder.
        options: config overrides, in the framework's syntax; not for an exported file.
        classes: a file with the classes' names, where the model does not hold them; not for an exported file.
        device: ``cpu``, ``cuda:1``; by default a GPU if there is one. An exported file runs on the CPU.

    Returns:
        A callable: an RGB image (H, W, 3), uint8 -> ``Detections`` or a ``LabelMap``, as NumPy arrays.

    Raises:
        ConfigError: there is no such model, or the folder holds no finished checkpoint.
        ResNeStError: the model cannot be loaded; see ``Predictor.from_config`` and ``from_file``.

    Examples:
        >>> from resnest_backbones import predict
        >>> predictor = predict.load("output")  # doctest: +SKIP
        >>> predictor(image).names  # doctest: +SKIP
        ['cat', 'dog']
    """
    if str(model).endswith(tuple(SUFFIXES.values())):
        return Predictor.from_file(model)
    config, checkpoint = find_model(model, checkpoint)
    return Predictor.from_config(config, checkpoint, options=options, classes=classes, device=device)


def find_model(model: str | Path, checkpoint: str | Path | None = None) -> tuple[str, str]:
    """Return config and checkpoint of a recipe, or of the output folder of a training; arguments as in ``load``."""
    if Path(model).is_dir():
        config, found = map(str, find_training(Path(model)))
    elif str(model) in RECIPES:
        config, found = str(model), f"{SCHEME}{model}"
    else:
        hint = did_you_mean(str(model), list_trained(), "`resnest-backbones list --trained` prints the names")
        raise ConfigError(
            f"a model must be a trained recipe, an output folder or an exported file, got {model}; {hint}"
        )
    return config, str(checkpoint or found)
