"""``resnest://`` weights in any Detectron2 project, and a checkpointer that reads every published layout."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils.file_io import PathManager
from filelock import FileLock
from iopath.common.file_io import PathHandler, get_cache_dir

from resnest_backbones.checkpoint import (
    extract_state_dict,
    for_detectron2,
    read_checkpoint,
    save_atomically,
    write_atomically,
)
from resnest_backbones.checkpoint.classes import check_resumed_classes, known_classes, match_classes
from resnest_backbones.checkpoint.contents import split_part
from resnest_backbones.checkpoint.fit import Fit, compare, describe_networks, describe_other_pools, fit_trunk
from resnest_backbones.checkpoint.layouts import COUNTER, detect_layout, is_core_key, split_trunk
from resnest_backbones.detectron2.roi_heads import keep_last_mask_head
from resnest_backbones.errors import CheckpointError, WeightsError
from resnest_backbones.models.blocks import Stage
from resnest_backbones.models.resnest import ResNeSt
from resnest_backbones.weights import SCHEME, default_cache_dir, fetch, fetch_url, get_record

logger = logging.getLogger(__name__)

# The backbone files that the wrapper's recipes start from; their server no longer answers.
_WRAPPER_FILE = re.compile(r"resnest(50|101|200|269)_detectron-\w+\.pth$")
_WRAPPERS_DILATION = (
    "if it was trained with the original Detectron2 wrapper and RES5_DILATION 2, it needs "
    "MODEL.RESNETS.RES5_MULTI_GRID [1, 1, 1] and AVG_POOL_AT_STRIDE_1 False: the wrapper also dilates the first block "
    "of res5 and has no pool there"
)
_WITHOUT_WEIGHTS = "MODEL.WEIGHTS '' (train.init_checkpoint='' in a LazyConfig) trains without initial weights"
_WITHOUT_POOLS = "MODEL.RESNETS.AVG_POOL_AT_STRIDE_1 False (avg_pool_at_stride_1=False in a LazyConfig)"


class ResNeStWeightsHandler(PathHandler):
    """Resolves ``resnest://NAME`` to a file in Detectron2's layout in the cache, made of the published one."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        record = get_record(path)
        published = fetch(record)
        renamed = (default_cache_dir() / record.filename).with_suffix(".detectron2.pth")
        if renamed.exists() and not force:
            return str(renamed)
        if not os.access(renamed.parent, os.W_OK):  # a cache that others filled
            renamed = Path(private_folder().name) / renamed.name
        with FileLock(f"{renamed}.lock"):
            if force or not renamed.exists():
                content = read_checkpoint(published)
                save_atomically({**for_detectron2(extract_state_dict(content)), **_meta(content)}, renamed)
        return str(renamed)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if "w" in mode or "a" in mode:
            raise OSError(f"{path}: {SCHEME} is read-only")
        return open(self._get_local_path(path), mode, buffering=buffering)


@cache
def private_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that lasts as long as this process."""
    return tempfile.TemporaryDirectory(prefix="resnest_backbones_")


def register_weights_handler() -> None:
    """Let Detectron2's ``PathManager`` resolve ``resnest://NAME``; safe to call twice."""
    PathManager.register_handler(ResNeStWeightsHandler(), allow_override=True)


class ResNeStCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with six additions.

    It reads every published ResNeSt layout (official, timm, mmseg, PyTorch-Encoding, the wrapper's) without running
    code that a file may hold; it refuses a file that has the name of a published detector but not its hash; it refuses
    one that does not fill the model's ResNeSt, or fills nothing; it logs in one line how many tensors a checkpoint
    filled; a file that it saves appears under its final name only when it is whole; and the names of the classes are
    saved with the model.

    Attributes:
        require_whole: whether to refuse a checkpoint that does not fill the model, heads included. An evaluation wants
            that, and so does resuming; a training starts from a trunk.
        class_names: names of the classes of the data. They are saved with the model as ``meta["CLASSES"]``, and
            compared with a checkpoint's own where a training resumes, or with ``require_whole``.
        class_places: the place of each of a checkpoint's classes in the data, after loading with ``require_whole``;
            None where it is the same.
    """

    require_whole = False
    class_names: Sequence[str] = ()
    class_places: Sequence[int] | None = None
    _resumes = False
    _part = ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load as ``DetectionCheckpointer`` does; a training that resumes wants a whole model of the same classes."""
        self._resumes = resume and self.has_checkpoint()
        try:
            content: dict[str, Any] = super().resume_or_load(path, resume=resume)
            return content
        finally:
            self._resumes = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, trainer state and ``kwargs`` to ``NAME.pth`` in the output folder."""
        if not self.save_dir or not self.save_to_disk:
            return
        content: dict[str, Any] = {"model": self.model.state_dict(), "__author__": "resnest_backbones"}
        if self.class_names:
            content["meta"] = {"CLASSES": list(self.class_names)}
        content.update({key: part.state_dict() for key, part in self.checkpointables.items()}, **kwargs)
        file = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", file)
        save_atomically(content, file)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in the file ``last_checkpoint``."""
        tag = Path(self.save_dir) / "last_checkpoint"
        write_atomically(tag, lambda stream: stream.write(last_filename_basename.encode()))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint as ``DetectionCheckpointer`` does; a file that is refused does not spoil the next call.

        ``FILE#PART`` takes one of several weights in a file, such as ``#ema``.

        Raises:
            CheckpointError: the file cannot be found, downloaded or read, has names of no ResNeSt among a ResNeSt's, or
                not the published file's hash; it is of another network than the model's ResNeSt, or fills nothing; with
                ``require_whole``, it does not fill the model, or none is named.
            DatasetError: the file names other classes than ``class_names``.
        """
        if self.require_whole and not path:
            raise CheckpointError(
                "MODEL.WEIGHTS (train.init_checkpoint in a LazyConfig) must name a checkpoint, got none"
            )
        try:
            self._file = path
            name, self._part = split_part(path or "")
            return super().load(_local(name), *args, **kwargs)
        except (WeightsError, AssertionError) as error:
            if isinstance(error, AssertionError) and "not found" not in str(error):
                raise  # fvcore asserts that the file exists; another assertion is another matter
            without = "" if self.require_whole else f"; {_WITHOUT_WEIGHTS}"
            if path.startswith(SCHEME):
                raise WeightsError(f"{error}{without}") from error
            wrapper_file = _WRAPPER_FILE.search(path)
            hint = f"; use resnest://resnest{wrapper_file[1]}, or a local copy of the file" if wrapper_file else ""
            raise CheckpointError(f"{path} could not be loaded: {error}{hint}{without}") from error
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        try:
            state = extract_state_dict(content.get("blobs", content), part=self._part, file=filename)
        except ValueError as error:
            raise CheckpointError(f"{filename}: {error}") from error
        self._check_classes(known_classes(content).get("classes"), filename)
        if filename.endswith(".pkl"):
            return _zoo_content(content)
        if warning := describe_other_pools(self.model, state, _WITHOUT_POOLS):
            logger.warning("%s: %s", filename, warning)
        elif content.get("__author__") != "resnest_backbones" and _may_be_wrappers_network(self.model, state):
            logger.warning("%s: %s", filename, _WRAPPERS_DILATION)
        rest = content if "model" in content else {}
        loaded: dict[str, Any] = {**{key: value for key, value in rest.items() if key != "meta"}, **_meta(content)}
        loaded["model"] = state
        try:
            loaded.update(self._renamed(state, filename))
        except ValueError as error:
            # A user's model around a ResNeSt, or with norms of its own, may have these very names.
            if not state.keys() & self.model.state_dict().keys():
                raise CheckpointError(f"{filename}: {error}") from error
        query = self._parsed_url_during_load.query if self._parsed_url_during_load else ""
        if parse_qs(query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded

    def _trunks(self) -> dict[str, ResNeSt]:
        """Return the ResNeSts in the model by what stands before their names."""
        found = {name: module for name, module in self.model.named_modules() if isinstance(module, ResNeSt)}
        return {f"{name}." if name else "": module for name, module in found.items()}

    def _renamed(self, state: dict[str, Any], filename: str) -> dict[str, Any]:
        """Return what Detectron2's loader needs of a ResNeSt in any layout; of another model, nothing new."""
        try:
            logger.info("%s contains a ResNeSt in the layout %s", filename, detect_layout(state))
        except ValueError:
            # Not a ResNeSt: a ResNet baseline, or another project's model, which loads as Detectron2 does it.
            return {"matching_heuristics": True} if filename.endswith(".pyth") else {}
        made = for_detectron2(state)
        if len(prefixes := [*self._trunks()]) != 1:
            return made
        # The trunk's place in the model may be another than in the file's: below a pyramid, or not; res5 in the heads.
        _, trunk, others = split_trunk(made["model"])
        res5 = getattr(getattr(self.model, "roi_heads", None), "res5", None)
        in_heads = "res5." if isinstance(res5, Stage) else "fc."  # of which nothing is left
        kept = {key: value for key, value in trunk.items() if not key.startswith("fc.")}
        placed = {("roi_heads." if k.startswith(in_heads) else prefixes[0]) + k: value for k, value in kept.items()}
        return {"model": {**placed, **others}, "__author__": made["__author__"]}

    def _check_classes(self, names: Sequence[str] | None, filename: str) -> None:
        if self.require_whole:
            self.class_places = match_classes(names, self.class_names)
        elif self._resumes:
            check_resumed_classes(names, self.class_names, filename)

    def _check_networks(self, given: Mapping[str, Any], fit: Fit) -> None:
        """Refuse weights of another network than the model's ResNeSt, or that fill nothing."""
        trunks = self._trunks()
        for prefix, trunk in trunks.items():
            own = trunk.state_dict()
            state = {key.removeprefix(prefix): value for key, value in given.items()}
            # What other norms than the file's have no place for; the line of counts says so.
            state = {key: value for key, value in state.items() if key in own or ".running_" not in key}
            trunk_fit = fit_trunk(state, own)
            if not trunk_fit.is_exact:
                named = describe_networks(state, own)
                raise CheckpointError(f"{self._file} does not fit the model's ResNeSt: {named}{trunk_fit.describe()}")
        left = [] if trunks else [key for key in fit.unexpected if is_core_key(key)]
        if left or not fit.filled:
            what = "contains a ResNeSt, but the model has none" if left else "matches nothing in the model"
            raise CheckpointError(f"{self._file} {what}: {fit.describe()}")

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self._convert_ndarray_to_tensor(checkpoint["model"])
        if checkpoint.pop("matching_heuristics", False):
            caffe2 = checkpoint.get("__author__") == "Caffe2"
            checkpoint["model"] = align_and_update_state_dicts(self.model.state_dict(), checkpoint["model"], caffe2)
        checkpoint["model"] = keep_last_mask_head(checkpoint["model"], self.model.state_dict().keys())
        given = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
        fit = compare(given, self.model.state_dict())
        self._check_networks(given, fit)
        if (self.require_whole or self._resumes) and not fit.is_whole:
            raise CheckpointError(f"{self._file} does not fit the model of the config: {fit.describe()}")
        incompatible = super()._load_model(checkpoint)
        incompatible.unexpected_keys[:] = [k for k in incompatible.unexpected_keys if not k.endswith(COUNTER)]
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in fit.mismatched]
        incompatible.incorrect_shapes.clear()  # counted in the line below
        all_used = fit.filled and not fit.unexpected and not fit.mismatched
        left = "; tensors with a different shape keep their initialization" if fit.mismatched else ""
        logger.log(logging.INFO if all_used else logging.WARNING, "%s: %s%s", self._file, fit.describe(), left)
        return incompatible


def _may_be_wrappers_network(model: Any, state: Mapping[str, Any]) -> bool:
    """Return whether it is a detector's file, and the trunk has output stride 16, where the wrapper's is another."""
    trunks = [module for module in model.modules() if isinstance(module, ResNeSt) and module.multi_grid is None]
    dilated = any(trunk.output_stride == 16 and "res5" in trunk._modules for trunk in trunks)
    return dilated and any(key.startswith("backbone.") for key in state)


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file of MMCV's or MMEngine's runner says of its training: the names of its classes."""
    return {"meta": content["meta"]} if isinstance(content.get("meta"), Mapping) else {}


def _local(path: str) -> str:
    """Download a URL into iopath's cache, whose own download has no time-out; return the file with the URL's query."""
    if not path or not path.startswith(("http://", "https://")):
        return path
    url = urlparse(path)
    folder = Path(get_cache_dir()) / Path(url.path.lstrip("/")).parent
    file = fetch_url(url._replace(query="").geturl(), cache_dir=folder)
    return f"{file}?{url.query}" if url.query else str(file)


def _zoo_content(content: dict[str, Any]) -> dict[str, Any]:
    """Return a file of the Detectron2 or Detectron1 model zoo as ``DetectionCheckpointer`` describes it."""
    if "model" in content and "__author__" in content:
        return content
    blobs = {key: value for key, value in content.get("blobs", content).items() if not key.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
