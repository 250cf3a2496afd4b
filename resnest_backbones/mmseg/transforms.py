"""Loading of label maps that says which file is wrong, and how.

What else the paper's training needs, MMCV's and MMSegmentation's own transforms express; the paper's configs have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from resnest_backbones.data import read_label_map
from resnest_backbones.errors import DatasetError

_IGNORED = 255  # MMSegmentation's; a label map is 8 bits deep there


@TRANSFORMS.register_module()
class LoadCheckedAnnotations(LoadAnnotations):
    """MMSegmentation's ``LoadAnnotations``, with a check of the values in the file.

    MMSegmentation casts the values to 8 bits and shifts them if ``reduce_zero_label`` is set, after which a wrong label
    ends in a CUDA assertion, an index error far away or, if it wraps around, in nothing at all. A label map is an image
    of one channel (it may have a palette): classes from 0, or from 1 if ``reduce_zero_label`` makes 0 ignored, and 255
    for what is ignored.

    Args:
        num_classes: number of classes in the files, if the dataset does not put it into its data infos;
            MMSegmentation's own datasets do not.
        backend_args: MMEngine's file backend.

    Raises:
        ValueError: ``num_classes`` is not from 1 to 255.
    """

    def __init__(self, *, num_classes: int | None = None, backend_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(backend_args=None if backend_args is None else dict(backend_args))
        if num_classes is not None:
            _check_num_classes(num_classes)
        self.num_classes = num_classes

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map`` to a data info of a dataset; other images, in inference, stay as they are.

        MMSegmentation's inference removes its own ``LoadAnnotations`` from a test pipeline, by name.

        Raises:
            DatasetError: the file is missing or cannot be read, has several channels, has another size than the image,
                or holds labels that no class has; the message names it.
            ValueError: neither the data info nor the transform says how many classes there are.
        """
        of_a_dataset = "seg_fields" in results or "seg_map_path" in results
        return super().transform(results) if of_a_dataset else results

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        """Add ``gt_seg_map``, (H, W) in uint8, to a data info that has ``seg_map_path``."""
        file = results.get("seg_map_path")
        if file is None:
            raise DatasetError(f"the dataset names no label map for the image {results.get('img_path')}")
        try:
            labels = read_label_map(file, fileio.get(file, backend_args=self.backend_args))
        except FileNotFoundError as error:
            raise DatasetError(f"the label map {file} does not exist") from error
        size = tuple((results.get("ori_shape") or labels.shape)[:2])
        if labels.shape != size:
            raise DatasetError(
                f"the label map {file} must be as large as its image {results.get('img_path')}, which has height and "
                f"width {size}, got {labels.shape}"
            )
        num_classes = results.get("num_classes", self.num_classes)
        if num_classes is None:
            raise ValueError(
                "num_classes must be given to LoadCheckedAnnotations unless the dataset provides it, got None"
            )
        _check_num_classes(num_classes)
        _check_labels(file, labels, num_classes, bool(results["reduce_zero_label"]))
        labels = labels.astype(np.uint8)
        if results["reduce_zero_label"]:
            labels = np.where((labels == 0) | (labels == _IGNORED), _IGNORED, labels - 1).astype(np.uint8)
        before = labels.copy()
        for old, new in (results.get("label_map") or {}).items():
            labels[before == old] = new
        results["gt_seg_map"] = labels
        results["seg_fields"].append("gt_seg_map")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, backend_args={self.backend_args})"


def _check_num_classes(number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _IGNORED:
        raise ValueError(f"num_classes must be an integer from 1 to {_IGNORED}, got {number!r}")


def _check_labels(file: str, labels: np.ndarray, num_classes: int, reduce_zero_label: bool) -> None:
    """Compare in terms of the file, where classes are 1 to ``num_classes`` if zero is reduced."""
    last = num_classes if reduce_zero_label else num_classes - 1
    wrong = (labels != _IGNORED) & ((labels < 0) | (labels > last))
    if not wrong.any():
        return
    values, counts = np.unique(labels[wrong], return_counts=True)
    shown = ", ".join(f"{value} ({count} pixels)" for value, count in zip(values[:10], counts, strict=False))
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    ignored = "0 and 255 are ignored" if reduce_zero_label else "255 is ignored"
    raise DatasetError(
        f"the label map {file} must hold labels from 0 to {last} or 255 ({num_classes} classes; {ignored}), "
        f"got {shown}{more}"
    )
