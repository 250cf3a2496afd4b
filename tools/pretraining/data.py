"""Folders of images by class, and how images are augmented and evaluated.

Sources: scripts/gluon/train.py (``get_train_data``) for the training, ``ECenterCrop`` of resnest/torch/transforms for
the evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resnest_backbones.data import IMAGE_SUFFIXES, read_image
from resnest_backbones.errors import DatasetError, name_first
from resnest_backbones.weights import get_record

_PUBLISHED = get_record("resnest50")  # mean and std of ImageNet; images of other channels take their averages
_MARGIN = 32  # pixels around the crop in the evaluation
_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])  # of ImageNet's colours, and their directions
_EIGENVECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
AUGMENTATIONS: dict[str, Callable[[], v2.Transform]] = {
    "autoaugment": v2.AutoAugment,
    "randaugment": partial(v2.RandAugment, num_ops=2, magnitude=12),
    "none": v2.Identity,
}


class ClassFolders(ImageFolder):
    """Images in a folder per class.

    Args:
        root: the folder of these folders.
        transform: an image (C, H, W) uint8 -> what the network gets.
        channels: of an image.
        known: names of the classes, in order; those of the folders where None. Not each of them needs images.

    Raises:
        DatasetError: a class has no images, or is none of those known; the message names it.
    """

    def __init__(
        self, root: Path, transform: Callable[[Tensor], Tensor], *, channels: int, known: Sequence[str] | None = None
    ) -> None:
        self._known = known
        read = partial(read_image, channels=channels)
        super().__init__(
            str(root), v2.Compose([F.to_image, transform]), loader=read, is_valid_file=_is_image, allow_empty=True
        )
        used = set(self.targets)
        empty = [n for n, at in self.class_to_idx.items() if at not in used and (not known or (root / n).is_dir())]
        if empty:
            raise DatasetError(f"{root} has classes without images: {name_first(empty)}; remove the empty folders")

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and their numbers."""
        if not os.path.isdir(directory):
            raise DatasetError(
                f"{directory} is not a folder: --data must hold train/ and val/, each a folder per class"
            )
        found = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and entry.name[0] != ".")
        if not found:
            raise DatasetError(f"{directory} must hold a folder of images per class, found none")
        classes = list(self._known or found)
        if unknown := [name for name in found if name not in classes]:
            raise DatasetError(
                f"{directory} has classes that are none of the {len(classes)} trained ones ({name_first(classes)}): "
                f"{name_first(unknown)}"
            )
        return classes, {name: number for number, name in enumerate(classes)}


def _is_image(file: str) -> bool:
    return Path(file).suffix.lower() in IMAGE_SUFFIXES and not Path(file).name.startswith(".")


def training_transform(crop: int, augmentation: str, channels: int) -> v2.Compose:
    """Return the augmentation: a policy, a crop of any size and shape, a flip, colours, lighting.

    The policies, and what changes colours, are for grey and RGB.
    """
    colours = channels in (1, 3)
    return v2.Compose(
        [
            AUGMENTATIONS[augmentation if colours else "none"](),
            v2.RandomResizedCrop(crop, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4) if colours else v2.Identity(),
            v2.ToDtype(torch.float32, scale=True),
            change_lighting if channels == 3 else v2.Identity(),
            _normalize(channels),
            v2.ToPureTensor(),
        ]
    )


def change_lighting(image: Tensor, deviation: float = 0.1) -> Tensor:
    """Shift an image (3, H, W) in [0, 1] along the principal directions of ImageNet's colours, as AlexNet did."""
    return image + (_EIGENVECTORS @ (deviation * torch.randn(3) * _EIGENVALUES))[:, None, None]


def evaluation_transform(crop: int, channels: int) -> v2.Compose:
    """Return the published evaluation's transform."""
    steps = [partial(crop_centre, crop=crop), v2.ToDtype(torch.float32, scale=True), _normalize(channels)]
    return v2.Compose([*steps, v2.ToPureTensor()])


def crop_centre(image: Tensor, crop: int) -> Tensor:
    """Cut a centred square, (C, H, W) -> (C, crop, crop): crop / (crop + 32) of the short side, resized bilinearly."""
    height, width = image.shape[-2:]
    side = crop / (crop + _MARGIN) * min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    image = F.crop(image, top, left, round(top + side) - top, round(left + side) - left)
    return F.resize(image, [crop, crop], antialias=True)


def _normalize(channels: int) -> v2.Normalize:
    of_rgb = _PUBLISHED.mean, _PUBLISHED.std
    mean, std = of_rgb if channels == 3 else ([float(np.mean(values))] * channels for values in of_rgb)
    return v2.Normalize(mean, std)
