"""Loading of images and label maps by this package's readers, which say which file is wrong, and how.

What else the paper's training needs, MMCV's and MMSegmentation's own transforms express; the paper's configs have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from resnest_backbones.data import read_image, read_label_map
from resnest_backbones.data.label_maps import IGNORED, check_labels, check_shape
from resnest_backbones.errors import DatasetError
from resnest_backbones.mmseg.config import type_name

# Arguments of LoadImageFromFile with which LoadImage does the same.
_COMMON = {"type", "to_float32", "imdecode_backend", "backend_args"}


def with_image_reader(pipeline: Any) -> Any:
    """Return a pipeline with ``LoadImage`` for MMCV's ``LoadImageFromFile`` where that loads color images.

    Not in configs, since MMSegmentation's own inference looks for the step by its name.
    """
    if isinstance(pipeline, Mapping):
        if type_name(pipeline) == LoadImageFromFile.__name__ and set(pipeline) <= _COMMON:
            return {**{key: pipeline[key] for key in pipeline if key != "imdecode_backend"}, "type": LoadImage}
        return {key: with_image_reader(value) for key, value in pipeline.items()}
    return type(pipeline)(map(with_image_reader, pipeline)) if isinstance(pipeline, (list, tuple)) else pipeline


class LoadImage(LoadImageFromFile):
    """MMCV's ``LoadImageFromFile`` with the reader that also predicts with the trained model.

    They differ in images of CMYK, and in which kinds of files they refuse.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, (H, W, 3) in BGR, ``img_shape`` and ``ori_shape`` to a data info that has ``img_path``.

        Raises:
            DatasetError: the image cannot be read; the message names it.
        """
        file = results["img_path"]
        image = read_image(file, fileio.get(file, backend_args=self.backend_args))[..., ::-1]
        results["img"] = np.ascontiguousarray(image, dtype=np.float32 if self.to_float32 else np.uint8)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


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
            DatasetError: the file is missing, cannot be read, or is no label map of these classes; the message says so.
            ValueError: neither the data info nor the transform says how many classes there are.
        """
        of_a_dataset = "seg_fields" in results or "seg_map_path" in results
        return super().transform(results) if of_a_dataset else results

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        """Add ``gt_seg_map``, (H, W) in uint8, to a data info that has ``seg_map_path``."""
        file = results.get("seg_map_path")
        if file is None:
            raise DatasetError(f"the dataset has no label map for the image {results.get('img_path')}")
        try:
            labels = read_label_map(file, fileio.get(file, backend_args=self.backend_args))
        except FileNotFoundError as error:
            raise DatasetError(f"the label map {file} does not exist") from error
        check_shape(file, labels.shape, results.get("img_path"), results.get("ori_shape") or labels.shape)
        num_classes = results.get("num_classes", self.num_classes)
        if num_classes is None:
            raise ValueError(
                "num_classes must be passed to LoadCheckedAnnotations unless the dataset provides it, got None"
            )
        _check_num_classes(num_classes)
        check_labels(file, labels, num_classes, zero_is_ignored=bool(results["reduce_zero_label"]))
        if results["reduce_zero_label"]:
            labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1).astype(np.uint8)
        before = labels.copy()
        for old, new in (results.get("label_map") or {}).items():
            labels[before == old] = new
        results["gt_seg_map"] = labels
        results["seg_fields"].append("gt_seg_map")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_classes={self.num_classes}, backend_args={self.backend_args})"


def _check_num_classes(number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= IGNORED:
        raise ValueError(f"num_classes must be an integer from 1 to {IGNORED}, got {number!r}")
