"""A custom dataset in ADE20K's layout, its classes named in a text file.

::

    ROOT/images/{training,validation}/NAME.jpg         or another image format; sub-folders are searched too
    ROOT/annotations/{training,validation}/NAME.png    uint8: 0 not labelled, n the n-th class
    ROOT/classes.txt                                   one name per line; or ADE20K's own objectInfo150.txt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from resnest_backbones.data import (
    IMAGE_SUFFIXES,
    check_label_maps,
    files_below,
    find_class_file,
    make_palette,
    read_classes,
)
from resnest_backbones.errors import DatasetError


@DATASETS.register_module()
class LabelMapDataset(BaseSegDataset):
    """A dataset in ADE20K's layout.

    Label 0 of the files is ignored and label n becomes n - 1 (``reduce_zero_label``). A sample's record
    has what MMSegmentation's datasets put there, and ``num_classes``, by which ``LoadCheckedAnnotations`` checks
    labels.

    Args:
        data_root: ROOT above.
        data_prefix: the folders below ROOT, ``dict(img_path="images/training", seg_map_path="annotations/training")``.
        class_file: names of the classes; the one in ROOT where None.
        pipeline: transforms.
        test_mode: whether samples are for testing only.
        ignore_index: the label to ignore, after loading.
        indices: take only the first N samples, or those with these numbers.
        serialize_data: keep the records in one block of memory that workers share.
        lazy_init: look for the files later, when ``full_init`` is called.
        max_refetch: how many other samples are tried if the pipeline returns None.

    Raises:
        DatasetError: folders, the class file or annotations are missing; the message names them.
    """

    def __init__(
        self,
        *,
        data_root: str | Path,
        data_prefix: Mapping[str, str],
        class_file: str | Path | None = None,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
        ignore_index: int = 255,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        if not isinstance(data_prefix, Mapping) or set(data_prefix) != {"img_path", "seg_map_path"}:
            raise DatasetError(f"data_prefix must be a dict of img_path and seg_map_path, got {data_prefix!r}")
        classes = read_classes(find_class_file(data_root) if class_file is None else class_file)
        if not Path(data_root).is_dir():
            raise DatasetError(f"the root {data_root} of the dataset is not a folder")
        super().__init__(
            data_root=str(data_root),
            data_prefix=dict(data_prefix),
            metainfo={"classes": classes, "palette": make_palette(len(classes))},
            reduce_zero_label=True,
            pipeline=list(pipeline),
            test_mode=test_mode,
            ignore_index=ignore_index,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )
        self.METAINFO = dict(self.metainfo)  # where some tools of MMSegmentation look for classes and colours

    def load_data_list(self) -> list[dict[str, Any]]:
        """Pair images and annotations, sorted by name.

        Raises:
            DatasetError: a folder is missing or empty, or an image has no annotation, or shares it with another.
        """
        image_folder, annotation_folder = (Path(self.data_prefix[key]) for key in ("img_path", "seg_map_path"))
        for folder, what in ((image_folder, "images"), (annotation_folder, "annotations")):
            if not folder.is_dir():
                raise DatasetError(f"the folder of {what} {folder} does not exist")
        images = files_below(image_folder, IMAGE_SUFFIXES)
        if not images:
            raise DatasetError(f"the folder of images {image_folder} has none ({', '.join(IMAGE_SUFFIXES)})")
        annotations = {path.with_suffix(""): path for path in files_below(annotation_folder, (".png",))}
        counts = Counter(image.with_suffix("") for image in images)
        if shared := [str(image) for image in images if counts[image.with_suffix("")] > 1]:
            raise DatasetError(f"images in {image_folder} must differ in more than their suffix, got {_first(shared)}")
        if missing := [str(image) for image in images if image.with_suffix("") not in annotations]:
            raise DatasetError(
                f"{len(missing)} of {len(images)} images in {image_folder} have no annotation NAME.png in "
                f"{annotation_folder}: {_first(missing)}"
            )
        return [
            {
                "img_path": str(image_folder / image),
                "seg_map_path": str(annotation_folder / annotations[image.with_suffix("")]),
                "label_map": self.label_map,
                "reduce_zero_label": self.reduce_zero_label,
                "num_classes": len(self.metainfo["classes"]),
                "seg_fields": [],
            }
            for image in images
        ]

    def prepare_data(self, idx: int) -> Any:
        """Load a sample, or raise a ``DatasetError`` that names its image or label map."""
        with errors_that_name(self, idx):
            return super().prepare_data(idx)


def check_custom_dataset(settings: Any) -> list[str]:
    """Compare the label maps of a ``LabelMapDataset``, given by its config, with its classes, before any work.

    Raises:
        DatasetError: as ``LabelMapDataset`` and ``check_label_maps``.
    """
    dataset = DATASETS.build({**settings, "pipeline": []})
    files = [Path(dataset.get_data_info(index)["seg_map_path"]) for index in range(len(dataset))]
    return check_label_maps(files, dataset.metainfo["classes"])


@contextmanager
def errors_that_name(dataset: Any, index: int) -> Iterator[None]:
    """Turn errors from loading a sample into a ``DatasetError`` that names the image, which OpenCV's do not."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # of any kind: transforms may be the user's
        image = dataset.get_data_info(index).get("img_path", f"number {index}")
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"the image {image} cannot be used: {reason}") from error


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
