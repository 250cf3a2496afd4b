"""``resnest://`` weights in any OpenMMLab project, and checkpoints of every published layout, safely read.

Importing the plugin only makes ``resnest://NAME`` known to MMEngine. The hook renames what a runner loads;
``use_safe_loading`` is for programs, such as this project's tools, that decide how their whole process reads files.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from resnest_backbones.checkpoint import extract_state_dict, read_checkpoint
from resnest_backbones.checkpoint.array_pickle import History
from resnest_backbones.checkpoint.fit import compare
from resnest_backbones.checkpoint.layouts import convert_state_dict
from resnest_backbones.errors import CheckpointError
from resnest_backbones.mmseg.backbone import ResNeStBackbone
from resnest_backbones.weights import SCHEME, fetch, fetch_url, get_record

_WEB = ("http://", "https://")
_OWN = "backbone."
_DETECTRON2_FPN = "backbone.bottom_up."


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_resnest(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return the published file of ``resnest://NAME``, downloaded, verified and read onto the CPU.

    MMEngine calls this and the two loaders below, with a ``map_location`` that they ignore.
    """
    return read_checkpoint(fetch(get_record(filename)))


def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint file, of a training with MMEngine too, read without running any code that it may hold.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, or holds objects that could run code.
    """
    content = read_checkpoint(os.path.expanduser(filename))
    scalars = content.get("message_hub", {}).get("log_scalars", {})
    for name, history in scalars.items():
        if isinstance(history, History):
            state = history.state
            scalars[name] = HistoryBuffer(state["_log_history"], state["_count_history"], state["max_length"])
    return content


def load_from_url(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint at a URL, downloaded into PyTorch Hub's cache unless it is there, read as ``load_from_file``.

    Raises:
        WeightsError: it could not be downloaded.
    """
    return load_from_file(str(fetch_url(filename)))


def use_safe_loading() -> None:
    """Let this process read every checkpoint without running code that it may hold, whoever reads it.

    MMEngine itself falls back to unpickling freely. For programs only: it replaces MMEngine's loaders of local files
    and URLs, and sets PyTorch's own switch for all others.
    """
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_file, force=True)
    CheckpointLoader.register_scheme(prefixes=_WEB, loader=load_from_url, force=True)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


@HOOKS.register_module()
class ResNeStCheckpointHook(Hook):
    """Rename checkpoints of other layouts to MMSegmentation's names before they are loaded.

    ``load_from``, or a checkpoint to test, may then be a trunk alone, a segmentor with MMSegmentation's own ResNeSt, or
    PyTorch-Encoding's published DeepLabV3 or FCN. It acts if the model's backbone is a ``ResNeStBackbone``. In a
    config::

        custom_hooks = [dict(type="ResNeStCheckpointHook")]
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Rename the state dict in ``checkpoint`` in place.

        Raises:
            CheckpointError: the checkpoint is of another network; the message names the file.
        """
        model, file = _loading(runner)
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, ResNeStBackbone):
            checkpoint["state_dict"] = _for_segmentor(checkpoint, backbone, file)


def _loading(runner: Runner) -> tuple[nn.Module, str]:
    """Return the segmentor of a runner, and the checkpoint that it loads."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    file = str(runner._load_from or find_latest_checkpoint(runner.work_dir))
    return getattr(model, "module", model), file  # a wrapper for test-time augmentation has a module, too


def load_segmentor(model: nn.Module, file: str) -> dict[str, Any]:
    """Fill a segmentor from a checkpoint in any layout that ``ResNeStCheckpointHook`` takes.

    Args:
        model: a segmentor; nothing is renamed unless its backbone is a ``ResNeStBackbone``.
        file: a path, a URL, or ``resnest://NAME``.

    Returns:
        The content of the file, with the state dict as it was loaded.

    Raises:
        CheckpointError: the file cannot be read, or is of another network; the message names it.
    """
    content = _read(file)
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, ResNeStBackbone):
        content["state_dict"] = _for_segmentor(content, backbone, file)
    load_state_dict(model, OrderedDict(content["state_dict"]), logger="current")
    return content


def _read(file: str) -> dict[str, Any]:
    if file.startswith(SCHEME):
        return load_from_resnest(file)
    if file.startswith(_WEB):
        return load_from_url(file)
    return CheckpointLoader.load_checkpoint(file) if "://" in file else load_from_file(file)


def _for_segmentor(content: Mapping[str, Any], backbone: ResNeStBackbone, file: str) -> dict[str, Any]:
    """Return the state dict in a checkpoint under MMSegmentation's names; the backbone renames its own part."""
    try:
        state = {key.removeprefix("module."): value for key, value in extract_state_dict(content).items()}
        is_segmentor = any(key.startswith(_OWN) and not key.startswith(_DETECTRON2_FPN) for key in state)
        if not is_segmentor:
            state = convert_state_dict(state, "segmentor")
        backbone.fitting_trunk({key.removeprefix(_OWN): v for key, v in state.items() if key.startswith(_OWN)})
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not is_segmentor:
        print_log(f"{file}: renamed to MMSegmentation's names", logger="current")
    return state


@HOOKS.register_module()
class RequireWholeCheckpointHook(Hook):
    """Refuse a checkpoint that does not fill the model; MMEngine would keep random weights in its place.

    Auxiliary heads, which only training uses, and counters of batch norms may be missing.
    """

    priority = "LOWEST"  # after the hooks that rename what was loaded

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names and shapes."""
        model, file = _loading(runner)
        check_fills(model, checkpoint.get("state_dict", checkpoint), file)


def check_fills(model: nn.Module, state_dict: Any, file: str) -> None:
    """Check that a state dict has all that a segmentor needs for testing; a ``ResNeStBackbone`` checks its own part.

    Raises:
        CheckpointError: tensors are missing or have another shape; the message names the file.
    """
    is_ours = isinstance(getattr(model, "backbone", None), ResNeStBackbone)
    left_out = ("auxiliary_head.", _OWN) if is_ours else ("auxiliary_head.",)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(left_out)}
    given = {key.removeprefix("module."): value for key, value in state_dict.items()}
    fit = compare({key: given[key] for key in wanted if key in given}, wanted)
    if not fit.is_whole:
        raise CheckpointError(f"{file} does not fit the model of the config: {fit.describe()}")
