"""What a checkpoint says of its network: for ``resnest-backbones info FILE``, and for an evaluation."""

from __future__ import annotations

from os import PathLike
from typing import Any

from resnest_backbones.checkpoint.classes import as_list, known_classes
from resnest_backbones.checkpoint.contents import extract_state_dict
from resnest_backbones.checkpoint.files import local_file, read_checkpoint
from resnest_backbones.checkpoint.fit import IMAGE_KEY, networks_of
from resnest_backbones.checkpoint.layouts import split_trunk
from resnest_backbones.errors import CheckpointError


def describe_file(file: str | PathLike[str]) -> dict[str, Any]:
    """Return what a checkpoint in any published layout says of its network.

    Args:
        file: as in ``load_checkpoint``.

    Returns:
        ``file``; ``layout``; ``network``, and the ``tensors`` of its trunk; ``other_tensors``, of heads; channels of
        the image; classes of the classifier, or None, and their names, or those of a detector or segmentor. Of a
        training by ``tools/pretrain.py`` also the ``crop``, the ``epoch`` and its accuracy in percent, else None.

    Raises:
        CheckpointError: the file cannot be read, or holds no ResNeSt; the message names it.
    """
    path, part = local_file(str(file))
    content = read_checkpoint(path)
    try:
        layout, trunk, heads = split_trunk(extract_state_dict(content, part=part, file=str(path)))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network = next((name for name in (content.get("network"), *networks_of(trunk)) if isinstance(name, str)), None)
    return {
        "file": str(path),
        "layout": layout,
        "network": network,
        "tensors": len(trunk),
        "other_tensors": len(heads),
        "image_channels": trunk[IMAGE_KEY].shape[1] if IMAGE_KEY in trunk else None,
        "num_classes": len(trunk["fc.weight"]) if "fc.weight" in trunk else None,
        "classes": as_list(known_classes(content).get("classes")) or None,
        **{key: content.get(key) for key in ("crop", "epoch", "top1", "top5")},
    }
