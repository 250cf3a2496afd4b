"""A custom dataset in ADE20K's layout, its classes named in a text file.

::

    ROOT/images/{training,validation}/NAME.jpg         or another image format; sub-folders are searched too
    ROOT/annotations/{training,validation}/NAME.png    uint8: 0 not labeled, n the n-th class
    ROOT/classes.txt                                   one name per line; or ADE20K's own objectInfo150.txt
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from resnest_backbones.data import check_label_maps, find_class_file, pair_label_maps, palette_of, read_classes
from resnest_backbones.errors import DatasetError
from resnest_backbones.mmseg.transforms import with_image_reader


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
            raise DatasetError(f"data_prefix must be a dict with img_path and seg_map_path, got {data_prefix!r}")
        classes = read_classes(find_class_file(data_root) if class_file is None else class_file)
        if not Path(data_root).is_dir():
            raise DatasetError(f"the dataset root {data_root} is not a folder")
        super().__init__(
            data_root=str(data_root),
            data_prefix=dict(data_prefix),
            metainfo={"classes": classes, "palette": palette_of(classes)},
            reduce_zero_label=True,
            pipeline=with_image_reader(list(pipeline)),
            test_mode=test_mode,
            ignore_index=ignore_index,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )
        self.METAINFO = dict(self.metainfo)  # where some tools of MMSegmentation look for classes and colors

    def load_data_list(self) -> list[dict[str, Any]]:
        """Pair images and annotations, sorted by name."""
        pairs, _ = pair_label_maps(Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"]))
        return [
            {
                "img_path": str(image),
                "seg_map_path": str(label_map),
                "label_map": self.label_map,
                "reduce_zero_label": self.reduce_zero_label,
                "num_classes": len(self.metainfo["classes"]),
                "seg_fields": [],
            }
            for image, label_map in pairs
        ]

    def prepare_data(self, idx: int) -> Any:
        """Load a sample, or raise a ``DatasetError`` that names its image or label map."""
        with errors_that_name(self, idx):
            return super().prepare_data(idx)


def check_custom_dataset(settings: Any) -> tuple[list[Path], list[str]]:
    """Compare the label maps of a ``LabelMapDataset``, given by its config, with its classes, before any work.

    Return the images, and a line for each thing that looks wrong or is left out. What cannot be used is an error.
    """
    dataset = DATASETS.build({**settings, "pipeline": [], "lazy_init": True})
    pairs, lines = pair_label_maps(*(Path(dataset.data_prefix[key]) for key in ("img_path", "seg_map_path")))
    return [image for image, _ in pairs], lines + check_label_maps(pairs, dataset.metainfo["classes"])


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
