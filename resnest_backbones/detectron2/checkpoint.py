"""``resnest://`` weights in any Detectron2 project, and a checkpointer that reads every published layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from filelock import FileLock
from iopath.common.file_io import PathHandler

from resnest_backbones.checkpoint import (
    CheckpointError,
    extract_state_dict,
    for_detectron2,
    read_checkpoint,
    save_atomically,
)
from resnest_backbones.layouts import COUNTER, detect_layout, summarize_keys
from resnest_backbones.weights import SCHEME, fetch, get_record

logger = logging.getLogger(__name__)


class ResNeStWeightsHandler(PathHandler):
    """Resolves ``resnest://NAME`` to a local file that Detectron2's own checkpointer can read.

    The published file is downloaded and verified (``weights.fetch``), then renamed once into Detectron2's layout, in a
    file beside it.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        published = fetch(get_record(path))
        renamed = published.with_suffix(".detectron2.pth")
        with FileLock(f"{renamed}.lock"):
            if force or not renamed.exists():
                save_atomically(for_detectron2(extract_state_dict(read_checkpoint(published))), renamed)
        return str(renamed)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        self._check_kwargs(kwargs)
        if "w" in mode or "a" in mode:
            raise OSError(f"{path}: {SCHEME} is read-only")
        return open(self._get_local_path(path), mode, buffering=buffering)


def register_weights_handler() -> None:
    """Make ``resnest://NAME`` a path that Detectron2's ``PathManager`` resolves; safe to call twice."""
    PathManager.register_handler(ResNeStWeightsHandler(), allow_override=True)


class ResNeStCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with three additions.

    It reads every published ResNeSt layout (official, timm, mmseg, PyTorch-Encoding, the wrapper's) without running
    code that a file may hold; it says how many of how many tensors a checkpoint filled; and what it saves appears under
    its final name only when it is whole.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, trainer state and ``kwargs`` to ``NAME.pth`` in the output folder."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: part.state_dict() for key, part in self.checkpointables.items()}, **kwargs)
        file = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", file)
        save_atomically(content, file)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in the file ``last_checkpoint``."""
        tag = Path(self.save_dir) / "last_checkpoint"
        temporary = tag.with_name(f".{tag.name}.{os.getpid()}.partial")
        temporary.write_text(last_filename_basename)
        os.replace(temporary, tag)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint as ``DetectionCheckpointer`` does; a file that is refused does not spoil the next call."""
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        state = _model_state(content, filename)
        if filename.endswith(".pkl"):
            return _zoo_content(content)
        loaded: dict[str, Any] = {**content} if "model" in content else {}
        try:
            layout = detect_layout(state)
        except ValueError:
            # Not a ResNeSt: a ResNet baseline, or another project's model, which loads as Detectron2 does it.
            loaded["model"] = state
            if filename.endswith(".pyth"):
                loaded["matching_heuristics"] = True
        else:
            logger.info("%s holds a ResNeSt in the layout %s", filename, layout)
            try:
                loaded.update(for_detectron2(state))
            except ValueError as error:
                raise CheckpointError(f"{filename}: {error}") from error
        query = self._parsed_url_during_load.query if self._parsed_url_during_load else ""
        if parse_qs(query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        given = [key for key in checkpoint["model"] if not key.endswith(COUNTER)]
        incompatible = super()._load_model(checkpoint)
        wanted = [key for key in self.model.state_dict() if not key.endswith(COUNTER)]
        incompatible.unexpected_keys[:] = [k for k in incompatible.unexpected_keys if not k.endswith(COUNTER)]
        missing = [k for k in incompatible.missing_keys if not k.endswith(COUNTER)]
        reshaped = [key for key, _, _ in incompatible.incorrect_shapes]
        unfilled = missing + [key for key in reshaped if key not in missing]
        filled = len(wanted) - len(unfilled)
        message = f"The checkpoint filled {filled} of the model's {len(wanted)} tensors"
        unused = len(given) - filled
        if not unfilled and unused <= 0:
            logger.info("%s", message)
        else:
            logger.warning(
                "%s. Not filled: %s. Of its own %d tensors, %d were not used: %s",
                message,
                summarize_keys(unfilled),
                len(given),
                max(unused, 0),
                summarize_keys(incompatible.unexpected_keys + reshaped),
            )
        return incompatible


def _model_state(content: Mapping[str, Any], filename: str) -> dict[str, Any]:
    try:
        return extract_state_dict(content.get("blobs", content))
    except ValueError as error:
        raise CheckpointError(f"{filename}: {error}") from error


def _zoo_content(content: dict[str, Any]) -> dict[str, Any]:
    """A file of the Detectron2 or Detectron1 model zoo, as ``DetectionCheckpointer`` describes it."""
    if "model" in content and "__author__" in content:
        return content
    blobs = {key: value for key, value in content.get("blobs", content).items() if not key.endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
