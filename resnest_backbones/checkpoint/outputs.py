"""What a training leaves in its output folder."""

from __future__ import annotations

from pathlib import Path

from resnest_backbones.errors import ConfigError


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a file of both frameworks names, by a name or by a path that may have moved since."""
    named = folder / "last_checkpoint"
    file = folder / Path(named.read_text().strip()).name if named.is_file() else folder / "model_final.pth"
    return file if file.is_file() else None


def find_training(folder: Path) -> tuple[Path, Path]:
    """Return config and last checkpoint of the output folder of a training of either framework.

    Raises:
        ConfigError: one of them is not there, or there are several configs.
    """
    configs = [folder / "config.yaml"] if (folder / "config.yaml").is_file() else sorted(folder.glob("*.py"))
    if len(configs) != 1:
        raise ConfigError(f"{folder} must hold config.yaml or one config in Python, found {len(configs)}")
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise ConfigError(f"{folder} holds no checkpoint of a training, such as model_final.pth")
    return configs[0], checkpoint
