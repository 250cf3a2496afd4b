"""Reading checkpoints without running code, filling a trunk from one, and writing one in another layout."""

from __future__ import annotations

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor, nn

from resnest_backbones.checkpoint.array_pickle import arrays_in_tensor_files, load_arrays, made
from resnest_backbones.checkpoint.contents import extract_state_dict, split_part
from resnest_backbones.checkpoint.fit import (
    IMAGE_KEY,
    compare,
    describe_networks,
    describe_other_pools,
    fit_trunk,
    is_offset,
)
from resnest_backbones.checkpoint.layouts import COUNTER, convert_state_dict, split_trunk, summarize_keys
from resnest_backbones.choices import TARGETS
from resnest_backbones.errors import CheckpointError
from resnest_backbones.models.arguments import ResNeStOptions
from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.models.variants import get_variant
from resnest_backbones.weights import SCHEME, fetch, find_published, get_record

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

SaveError = OSError  # what ``write_atomically`` raises

_UNFINISHED = ".partial"  # ends the temporary name of a file that is being written
_BLOCK = 1 << 20


def read_checkpoint(file: str | PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint file without running any code that it may hold.

    ``.pkl`` files (Detectron's model zoos) go through ``array_pickle.py``, ``.safetensors`` files through their own
    package, all others through ``torch.load(weights_only=True)``. Beside tensors they may have arrays, MMEngine's logs,
    as ``History``, and the settings of a training, as dicts. A file with the name of a published detector or segmentor
    must have the hash in that name.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, is cut short, holds other objects, or is not the
            published one whose name it has; the message names it.
    """
    path = Path(file)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    if path.suffix == ".safetensors" and find_spec("safetensors") is None:
        raise CheckpointError(f"{path} needs the package safetensors: pip install 'resnest-backbones[hub]'")
    if published := find_published(path.name):
        kind = published.check(path)
        logger.info("%s is the published checkpoint: its %s begins with %s", path, kind, published.hash_prefix)
    try:
        if path.suffix == ".pkl":
            with open(path, "rb") as stream:
                content = load_arrays(stream)
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            _check_sums(path)
            with arrays_in_tensor_files():
                content = made(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(_why_unreadable(path, error)) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains a {type(content).__name__}, not a dict of tensors")
    return dict(content)


def _check_sums(path: Path) -> None:
    """Compare the records of a file of ``torch.save`` with the checksums beside them, which torch itself does not.

    The format before PyTorch 1.6, and files written without checksums, where each is zero, have none to compare.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.CRC:
                with archive.open(record) as stream:
                    while stream.read(_BLOCK):
                        pass  # the end of the record raises where the sum is another


def _why_unreadable(path: Path, error: Exception) -> str:
    with open(path, "rb") as stream:
        head = stream.read(64).lstrip()
    if head.startswith(b"<"):
        return f"{path} is not a checkpoint but a web page or XML: it begins with {head[:15]!r}"
    # torch's own message advises to turn the safety off: only what it says of the file is passed on.
    if named := re.search(r"GLOBAL (\S+)|(\S+) is neither an array", str(error)):
        what = named[1] or named[2]
        return f"{path} contains more than tensors and plain containers, so it could run code and is refused: {what}"
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if "weights_only" in str(error):
        said = re.search(r"Unsupported operand \d+|(?<=WeightsUnpickler error: )[^\n]*", str(error))
        reason = said[0].strip() if said else "it cannot be read safely"
    return f"{path} ({path.stat().st_size} bytes) is not a checkpoint, or is truncated or damaged: {reason}"


def local_file(name: str) -> tuple[Path, str]:
    """Return the file of a name, downloaded if need be, and the part of it that the name asks for."""
    name, part = split_part(name)
    if name.startswith(SCHEME):
        return fetch(get_record(name)), part
    if "://" in name:
        raise CheckpointError(f"{name} is neither a file nor {SCHEME}NAME; download it first")
    return Path(name), part


def build(name: str, *, weights: str | PathLike[str] | None = None, **options: Unpack[ResNeStOptions]) -> ResNeSt:
    """Build a published network by name.

    Args:
        name: one of ``list_variants()``.
        weights: ``resnest://NAME`` or a file, as in ``load_checkpoint``, adapted to ``in_channels`` and
            ``num_classes``, which a warning says; random weights where None.
        **options: those of ``ResNeSt``.

    Examples:
        >>> import torch
        >>> net = build("resnest14", out_features=("res2", "res5"))
        >>> {name: tuple(x.shape) for name, x in net(torch.zeros(2, 3, 64, 96)).items()}
        {'res2': (2, 256, 16, 24), 'res5': (2, 2048, 2, 3)}

    Raises:
        ValueError: the name or an option is outside what is allowed; the message names it.
        CheckpointError: the weights cannot be read or do not fit; the message names the file.
        WeightsError: the published file could not be had.
    """
    net = ResNeSt(get_variant(name), **options)
    if weights is not None:
        load_checkpoint(net, weights, adapt=True)
    return net


@dataclass(frozen=True)
class LoadReport:
    """What ``load_checkpoint`` did.

    Attributes:
        file: the file that was read.
        layout: the layout it was in; ``core`` where only the model itself knows its names.
        loaded: number of the model's tensors that it filled.
        unused: its keys that the model has no place for: a classifier, heads, stages that were not built.
    """

    file: Path
    layout: str
    loaded: int
    unused: tuple[str, ...]


def load_checkpoint(
    model: nn.Module, file: str | PathLike[str], *, new: Collection[str] = (), adapt: bool = False
) -> LoadReport:
    """Fill a ``ResNeSt`` from a checkpoint in any published layout.

    Every tensor of the model must be in the file with the same shape, and a stage has as many blocks there. Only the
    counters of batch norms, which some frameworks do not save, and the offsets of deformable convolutions, which
    ImageNet files never have, may be absent. The file may have more: a classifier that the model does not have, the
    heads of a detector, stages that were not built.

    Args:
        model: a ``ResNeSt``; it is left untouched when an error is raised.
        file: a path, or ``resnest://NAME`` for a published file, of a network or a trained recipe (downloaded into the
            cache, and verified). ``FILE#PART`` takes one of several networks in a file, such as the averaged weights.
        new: beginnings of names that stay as they were initialized, whatever the file has: ``("fc.",)`` for a
            classifier of other classes, ``("stem.conv1_1.weight",)`` for images of other channels.
        adapt: let a classifier of other classes stay as initialized, and give the first convolution the file's weights
            for images of other channels, with a warning each: their sum for one channel, else repeated and scaled.

    Raises:
        CheckpointError: the file cannot be read or does not fit; the message names the file, the layout, and the first
            keys that are missing or have another shape.
        WeightsError: the published file could not be had.
    """
    path, part = local_file(str(file))
    own = model.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(tuple(new))}
    try:
        content = extract_state_dict(read_checkpoint(path), part=part, file=str(path))
        layout, state, heads = _split_or_own(content, wanted.keys())
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if adapt:
        state, wanted = _adapted(state, wanted, path)
    fit = compare(state, wanted, optional=is_offset)
    more_blocks = [key for key in fit_trunk(state, own).unexpected if not key.startswith(tuple(new))]
    if more_blocks or not fit.is_whole:
        raise CheckpointError(
            f"{path} (layout {layout}) does not fit the model: {describe_networks(state, own)}{fit.describe()}; list "
            "in `new` what should keep its initialization"
        )
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    if any(is_offset(key) and key not in state for key in wanted):
        logger.info("%s: no offsets of deformable convolutions; they keep their initialization", path)
    if warning := describe_other_pools(model, content):
        logger.warning("%s: %s", path, warning)
    unused = [*fit.unexpected, *(key for key in heads if not key.endswith(COUNTER))]
    if unused:
        logger.info("%s: %d tensors are not in the model: %s", path, len(unused), summarize_keys(unused))
    return LoadReport(path, layout, sum(key in state for key in wanted), tuple(unused))


def _adapted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return both without a classifier of other classes, and the first convolution for the model's images."""
    state, wanted = dict(state), dict(wanted)
    if "fc.weight" in wanted and (classes := len(state.get("fc.weight", ()))) != len(wanted["fc.weight"]):
        wanted = {key: value for key, value in wanted.items() if not key.startswith("fc.")}
        logger.warning("%s: its classifier has %d classes; the model's keeps its initialization", path, classes)
    given, own = (tensors.get(IMAGE_KEY, torch.empty(0)) for tensors in (state, wanted))
    if given.dim() == own.dim() == 4 and given.shape[1] != own.shape[1]:
        old, new = given.shape[1], own.shape[1]
        if new == 1:
            state[IMAGE_KEY] = given.sum(dim=1, keepdim=True)
        else:
            state[IMAGE_KEY] = given.repeat(1, -(-new // old), 1, 1)[:, :new] * (old / new)
        logger.warning("%s: expects images with %d channels; its first convolution is adapted to %d", path, old, new)
    return state, wanted


def _split_or_own(state: dict[str, Tensor], names: Collection[str]) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Split as ``split_trunk`` does; keep the names where they are the model's own, as with other norms."""
    try:
        return split_trunk(state)
    except ValueError:
        if not set(names) <= state.keys():
            raise
        return "core", state, {}


def save_atomically(content: Any, file: Path) -> None:
    """Write by ``torch.save`` and ``write_atomically``."""
    write_atomically(file, lambda stream: torch.save(content, stream))


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary name beside ``file``, then rename, so that ``file`` is never half-written.

    Raises:
        OSError: the disk is full, the folder is read-only, and so on; the message names the file.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}{_UNFINISHED}")
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        # torch hides the error of a stream behind one of its own writer.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(f"{file} could not be written: {cause.strerror or cause}") from error
    finally:
        with suppress(OSError):  # in a read-only folder there is none
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | PathLike[str]) -> list[Path]:
    """Remove what a process killed in ``write_atomically`` left in a folder; no other process may write there."""
    found = sorted(Path(folder).glob(f".*{_UNFINISHED}"))
    for path in found:
        path.unlink(missing_ok=True)
    return found


def set_aside(folder: str | PathLike[str], marks: Sequence[str], others: Sequence[str], keep: str = "") -> list[str]:
    """Move what an earlier run left in a folder into a dated sub-folder, so that nothing is lost and no runs mix.

    Args:
        folder: where a new run will write.
        marks: patterns of files that only a run leaves that has begun; without any, nothing is moved.
        others: patterns of what is moved with them.
        keep: a file that the new run starts from, which is copied instead.

    Returns:
        A line for the user, or none where nothing was moved.
    """
    root, keep = Path(folder), split_part(keep)[0]
    left = {path for pattern in marks for path in root.glob(pattern)}
    if not left:
        return []
    left |= {path for pattern in others for path in root.glob(pattern)}
    target = root / f"before_{datetime.now():%Y%m%d_%H%M%S}"
    target.mkdir()
    for path in sorted(left):
        if keep and path.is_file() and os.path.exists(keep) and path.samefile(keep):
            shutil.copy2(path, target / path.name)
        else:
            path.rename(target / path.name)
    return [f"{root} contained a run, which was moved to {target}; use --resume to continue a run"]


def for_detectron2(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what Detectron2's own checkpointer reads: a detector as it is, a trunk with names to be matched.

    Of a trunk alone, classifier and counters of norms are left out, which no detector has a place for.
    """
    state = convert_state_dict(state_dict, "detectron2")
    if any(key.startswith("backbone.") for key in state):
        return {"model": state, "__author__": "resnest_backbones"}
    trunk = convert_state_dict(state, "core")
    kept = {key: value for key, value in trunk.items() if not key.startswith("fc.") and not key.endswith(COUNTER)}
    return {"model": kept, "__author__": "resnest_backbones", "matching_heuristics": True}


def convert_file(source: str | PathLike[str], target_file: str | PathLike[str], target: str) -> int:
    """Write a checkpoint in another layout.

    Args:
        source: a checkpoint in any published layout, or ``resnest://NAME``; ``FILE#PART`` as in ``load_checkpoint``.
        target_file: the file to write, ending in ``.pth``; it must not exist.
        target: as in ``convert_state_dict``. For ``detectron2`` the file is one that ``MODEL.WEIGHTS`` takes.

    Returns:
        The number of tensors written.

    Raises:
        ValueError: ``target`` or ``target_file`` is not as above.
        CheckpointError: the source cannot be read, or is not a ResNeSt; the message names the file.
    """
    output = Path(target_file)
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    if output.suffix != ".pth":
        raise ValueError(f"target_file must end in .pth, got {output}")
    if output.exists():
        raise ValueError(f"target_file must be a new file, but {output} exists")
    if not output.parent.is_dir():
        raise ValueError(f"target_file must be in an existing folder, got {output}")
    path, part = local_file(str(source))
    try:
        source_content = read_checkpoint(path)
        state = extract_state_dict(source_content, part=part, file=str(path))
        content = for_detectron2(state) if target == "detectron2" else convert_state_dict(state, target)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    number = len(content["model"] if target == "detectron2" else content)
    if target == "detectron2" and "meta" in source_content:  # of MMCV's runners: names of classes, among others
        content["meta"] = source_content["meta"]
    save_atomically(content, output)
    return number
