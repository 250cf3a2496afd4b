"""``resnest://`` weights in any OpenMMLab project, and checkpoints of every published layout, safely read.

Importing the plugin only makes ``resnest://NAME`` known to MMEngine. The hook renames what a runner loads;
``use_safe_loading`` is for programs, such as this project's tools, that decide how their whole process reads files.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from resnest_backbones.checkpoint import extract_state_dict, read_checkpoint
from resnest_backbones.checkpoint.array_pickle import History
from resnest_backbones.checkpoint.classes import check_resumed_classes, known_classes, match_classes
from resnest_backbones.checkpoint.contents import choose_weights, split_part
from resnest_backbones.checkpoint.fit import compare
from resnest_backbones.checkpoint.layouts import convert_state_dict, unwrap
from resnest_backbones.errors import CheckpointError
from resnest_backbones.mmseg.backbone import ResNeStBackbone
from resnest_backbones.weights import SCHEME, fetch, fetch_url, get_record

_WEB = ("http://", "https://")
_OWN = "backbone."
_DETECTRON2_FPN = "backbone.bottom_up."
_CLASSIFIER = re.compile(r"(?:decode|auxiliary)_head\.(?:\d+\.)?conv_seg\.(?:weight|bias)")


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_resnest(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return the published file of ``resnest://NAME``, downloaded, verified and read onto the CPU.

    MMEngine calls this and the two loaders below, with a ``map_location`` that they ignore.
    """
    return read_checkpoint(fetch(get_record(filename)))


def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint file, of a training with MMEngine too, read without running any code that it may hold.

    The weights of a ResNeSt are under ``state_dict``, wherever they lie in the file; of several weights those that
    ``FILE#PART`` asks for, or else the first, with a line about it. What does not exist, is not a checkpoint, or could
    run code is a ``CheckpointError``.
    """
    file, part = split_part(os.path.expanduser(filename))
    return _with_weights(read_checkpoint(file), file, part)


def _with_weights(content: dict[str, Any], file: str, part: str = "") -> dict[str, Any]:
    scalars = content.get("message_hub", {}).get("log_scalars", {})
    for name, history in scalars.items():
        if isinstance(history, History):
            state = history.state
            scalars[name] = HistoryBuffer(state["_log_history"], state["_count_history"], state["max_length"])
    try:
        path, state_dict = choose_weights(content, part, file)
    except ValueError as error:
        if part:
            raise CheckpointError(f"{file}: {error}") from error
        return content  # no weights, or another framework's; who asked for them will say so
    return content if path in ("", "state_dict") else {**content, "state_dict": state_dict}


def load_from_url(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return a checkpoint at a URL, downloaded into PyTorch Hub's cache unless it is there, as ``load_from_file``."""
    url, part = split_part(filename)
    file = str(fetch_url(url))
    return _with_weights(read_checkpoint(file), file, part)


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
        """Rename the state dict in ``checkpoint`` in place; what a training does not find there stays as initialized.

        Raises:
            CheckpointError: the checkpoint is of another network, or fills nothing; the message names the file.
        """
        model, file = _loading(runner)
        backbone = getattr(model, "backbone", None)
        starts = not any(isinstance(hook, RequireWholeCheckpointHook) for hook in runner.hooks)
        if isinstance(backbone, ResNeStBackbone):
            state = _for_segmentor(checkpoint, backbone, file)
            checkpoint["state_dict"] = _with_initial_heads(state, model, backbone, file) if starts else state
        elif starts and not (fit := compare(_plain(checkpoint), model.state_dict())).filled:
            raise CheckpointError(f"{file} matches nothing in the model: {fit.describe()}")


def _with_initial_heads(
    state: dict[str, Any], model: nn.Module, backbone: ResNeStBackbone, file: str
) -> dict[str, Any]:
    """Return a state dict with the model's own heads where its do not fit; a line, not MMEngine's table, says so."""
    trunk = {key: value for key, value in state.items() if key.startswith(_OWN)}
    heads = {key: value for key, value in state.items() if key not in trunk}
    fitting = backbone.fitting_trunk({key.removeprefix(_OWN): value for key, value in trunk.items()})
    own = model.state_dict()
    fit = compare({**heads, **{_OWN + key: value for key, value in fitting.items()}}, own)
    if not fit.is_exact:
        line = f"{file}: {fit.describe()}; heads that do not match keep their initialization"
        print_log(line, logger="current", level=logging.WARNING)
    initial = {key: value for key, value in own.items() if not key.startswith(_OWN)}
    return {**initial, **{key: value for key, value in heads.items() if key in fit.filled}, **trunk}


def _plain(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that MMEngine takes of a checkpoint, by the names that it gives them."""
    state = content.get("state_dict", content)
    return {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def _loading(runner: Runner) -> tuple[nn.Module, str]:
    """Return the segmentor of a runner, and the checkpoint that it loads."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    file = str(runner._load_from or find_latest_checkpoint(runner.work_dir))
    return getattr(model, "module", model), file  # a wrapper for test-time augmentation has a module, too


def load_segmentor(model: nn.Module, file: str, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Fill a segmentor from a checkpoint in any layout that ``ResNeStCheckpointHook`` takes.

    Args:
        model: a segmentor; nothing is renamed unless its backbone is a ``ResNeStBackbone``.
        file: a path, a URL, or ``resnest://NAME``; ``FILE#PART`` for one of several weights in it.
        classes: names in the order wanted of the model, if the file names the same in another one.

    Returns:
        The content of the file, with the state dict as it was loaded.

    Raises:
        CheckpointError: the file cannot be read, or is of another network; the message names it.
    """
    content = _read(file)
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, ResNeStBackbone):
        content["state_dict"] = _for_segmentor(content, backbone, file)
    known = known_classes(content).get("classes") or ()
    if classes and sorted(classes) == sorted(known) and (places := match_classes(known, classes)):
        content["state_dict"] = reorder_classes(_plain(content), places, file)
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
        state = extract_state_dict(content.get("state_dict") or content, file=file)
        with suppress(ValueError):  # a trunk with names of its own, as other norms have
            state = unwrap(state)
        state = {key.removeprefix("module."): value for key, value in state.items()}
        is_segmentor = any(key.startswith(_OWN) and not key.startswith(_DETECTRON2_FPN) for key in state)
        if not is_segmentor:
            state = convert_state_dict(state, "segmentor")
        backbone.fitting_trunk({key.removeprefix(_OWN): v for key, v in state.items() if key.startswith(_OWN)})
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not is_segmentor:
        print_log(f"{file}: renamed to MMSegmentation's names", logger="current")
    return state


def reorder_classes(state: dict[str, Any], places: Sequence[int], file: str) -> dict[str, Any]:
    """Return a segmentor's state, under MMSegmentation's names, with its classes at other places (``match_classes``).

    A head that does not classify by the ``conv_seg`` of MMSegmentation's is refused.
    """
    rows = [places.index(place) for place in range(len(places))]
    found = {key: value for key, value in state.items() if _CLASSIFIER.fullmatch(key) and len(value) == len(rows)}
    if not any(key.startswith("decode_head.") for key in found):
        raise CheckpointError(f"{file} has its classes in a different order than the data, but no decode_head.conv_seg "
                              f"with {len(rows)} classes to reorder: write the class file in the model's "
                              "order")  # fmt: skip
    return {**state, **{key: value[rows] for key, value in found.items()}}


@HOOKS.register_module()
class RequireWholeCheckpointHook(Hook):
    """Refuse a checkpoint that does not fill the model, or is of other classes than the data.

    MMEngine would keep random weights, and compare labels of different meaning. Auxiliary heads, which only training
    uses, and counters of batch norms may be missing. A test takes the same classes in another order by their names.
    """

    priority = "LOWEST"  # after the hooks that rename what was loaded

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names of classes, then names and shapes of tensors."""
        model, file = _loading(runner)
        loader = runner.train_dataloader if runner._resume else runner.test_dataloader
        of_data = (getattr(loader.dataset, "metainfo", None) or {}).get("classes")
        of_model = known_classes(checkpoint).get("classes")
        if runner._resume:
            check_resumed_classes(of_model, of_data, file)
        elif places := match_classes(of_model, of_data):
            checkpoint["state_dict"] = reorder_classes(_plain(checkpoint), places, file)
        check_fills(model, checkpoint.get("state_dict", checkpoint), file)


def check_fills(model: nn.Module, state_dict: Any, file: str) -> None:
    """Refuse a state dict without all that a segmentor needs for testing; a ``ResNeStBackbone`` checks its own part."""
    is_ours = isinstance(getattr(model, "backbone", None), ResNeStBackbone)
    left_out = ("auxiliary_head.", _OWN) if is_ours else ("auxiliary_head.",)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(left_out)}
    given = _plain(state_dict)
    fit = compare({key: given[key] for key in wanted if key in given}, wanted)
    if not fit.is_whole:
        raise CheckpointError(f"{file} does not fit the model of the config: {fit.describe()}")
