"""What becomes of a config's datasets: training loaders that can resume at any batch, test loaders, evaluators.

Detectron2's training loader starts its random stream anew when a training is resumed. Here a batch is a function of the
seed and its number alone, whatever the number of worker processes, so a resumed training sees the batches that an
uninterrupted one would have seen. Datasets and samplers are Detectron2's. Images are read by the reader of
``resnest_backbones.data``, which also predicts with the trained model.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.build import _train_loader_from_config, trivial_batch_collator, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from resnest_backbones.data import derive_seed, read_image, read_label_map
from resnest_backbones.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

COCO_MAX_DETECTIONS = 100  # of an image, that its evaluation counts

# evaluator_type -> what Detectron2's evaluator imports only when it evaluates
_EVALUATOR_PACKAGES = {
    "coco_panoptic_seg": "panopticapi",
    "lvis": "lvis",
    "cityscapes_instance": "cityscapesscripts",
    "cityscapes_sem_seg": "cityscapesscripts",
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, numpy and torch (CPU) inside a block, and restore their states after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


class ImageMapper(DatasetMapper):
    """Detectron2's mapper, whose images come from the reader that predicts with the trained model, too.

    They differ where an image has 16 bits: Detectron2's own reader cuts them off at 255.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return what the base class returns for a dataset dict, which is not changed."""
        sample = copy.deepcopy(dataset_dict)
        pixels = _read(read_image, sample["file_name"])
        image = utils.convert_PIL_to_numpy(Image.fromarray(pixels), self.image_format)
        utils.check_image_size(sample, image)
        label_map = sample.pop("sem_seg_file_name", None)
        seen = T.AugInput(image, sem_seg=_read(read_label_map, label_map) if label_map else None)
        transforms = self.augmentations(seen)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        if label_map:
            sample["sem_seg"] = torch.from_numpy(seen.sem_seg.astype(np.int64))
        shape = seen.image.shape[:2]
        if self.proposal_topk is not None:
            utils.transform_proposals(sample, shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self._transform_annotations(sample, transforms, shape)
        return sample


def _read(reader: Callable[[str, bytes], np.ndarray], file: str) -> np.ndarray:
    with PathManager.open(file, "rb") as stream:
        return reader(file, stream.read())


def use_image_mapper(loader: DictConfig) -> DictConfig:
    """Return the node of a loader in a LazyConfig with ``ImageMapper`` for Detectron2's mapper; others are left."""
    mapper = loader.get("mapper")
    if mapper is None or locate_target(mapper) is not DatasetMapper:
        return loader
    merged: Any = OmegaConf.merge(loader, {"mapper": {"_target_": f"{__name__}.{ImageMapper.__name__}"}})
    return merged


def locate_target(node: DictConfig) -> Any:
    """Return what a node of a LazyConfig builds."""
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


class NamingMapper:
    """A mapper whose errors name the image, which those of PIL and of augmentations do not."""

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]) -> None:
        self._mapper = mapper

    def __call__(self, sample: dict[str, Any]) -> Any:
        """Map a dataset dict; raise a ``DatasetError`` that names the file where it cannot be used."""
        try:
            return self._mapper(sample)
        except DatasetError:  # names it
            raise
        except Exception as error:  # of any kind: the mapper may be the user's
            name = sample.get("file_name", "?") if isinstance(sample, dict) else "?"
            size = f" ({sample['width']} x {sample['height']} pixels)" if "width" in sample else ""
            reason = str(error) or type(error).__name__
            raise DatasetError(f"the image {name}{size} cannot be used: {reason}") from error


class _SeededMapDataset(Dataset[Any]):
    """Maps a place in the stream to a training sample; its augmentation is seeded by that place.

    The place is ``position x size + index``: where in the stream it stands, and which image it shows.
    """

    def __init__(self, samples: Dataset[Any], mapper: Callable[[dict[str, Any]], Any], seed: int) -> None:
        self._size = len(samples)  # type: ignore[arg-type]
        self._mapped = MapDataset(samples, NamingMapper(mapper))
        self._seed = derive_seed(seed, comm.get_rank())

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> Any:
        position, index = divmod(place, self._size)
        with seeded(derive_seed(self._seed, position)):
            return self._mapped[index]


class _BatchStream(Sampler[list[int]]):
    """Endless batches of places in a sampler's stream, from the batch numbered ``start`` on."""

    def __init__(self, sampler: Sampler[int], shapes: Sequence[tuple[int, int]], batch_size: int) -> None:
        self.start = 0
        self._sampler = sampler
        self._shapes = shapes
        self._batch_size = batch_size

    def _places(self) -> Iterator[dict[str, int]]:
        for position, index in enumerate(self._sampler):
            width, height = self._shapes[index]
            yield {"width": width, "height": height, "place": position * len(self._shapes) + index}

    def __iter__(self) -> Iterator[list[int]]:
        # With equal sizes, all in one bucket, Detectron2's grouping is plain batching.
        for number, batch in enumerate(AspectRatioGroupedDataset(self._places(), self._batch_size)):
            if number >= self.start:
                yield [item["place"] for item in batch]


def build_resumable_train_loader(
    dataset: Any,
    *,
    mapper: Callable[[dict[str, Any]], Any] | None,
    total_batch_size: int,
    sampler: Sampler[int] | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    seed: int,
) -> DataLoader[Any]:
    """Build what ``detectron2.data.build_detection_train_loader`` builds from these arguments, and from a seed.

    ``set_first_batch(loader, n)``, before iterating, makes the batch numbered ``n`` the first. A batch that is not a
    positive multiple of the number of processes is a ``ValueError``.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(f"total_batch_size must be a multiple of the {world_size} processes, got {total_batch_size}")
    samples = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    if sampler is None:
        with seeded(seed):
            sampler = TrainingSampler(len(samples))
    shapes = [(1, 1)] * len(samples)
    if aspect_ratio_grouping:
        shapes = [(sample.get("width", 1), sample.get("height", 1)) for sample in samples]
    batches = _BatchStream(sampler, shapes, total_batch_size // world_size)
    return DataLoader(
        _SeededMapDataset(samples, mapper or (lambda sample: sample), seed),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
        worker_init_fn=worker_init_reset_seed,
        # Its own generator: starting the workers must not draw from the one that the model uses.
        generator=torch.Generator().manual_seed(seed),
    )


def build_train_loader_from_config(cfg: CfgNode) -> Any:
    """Build the training loader of a config: resumable, unless the dataset is a stream itself."""
    seed = max(cfg.SEED, 0)
    with seeded(derive_seed(seed)):
        # Detectron2's samplers draw their seed, shared among processes, from numpy's generator.
        arguments = _train_loader_from_config(cfg, ImageMapper(cfg, is_train=True))
    if isinstance(arguments["dataset"], IterableDataset):
        logger.warning("The training set is an iterable dataset: resuming restarts it from the beginning")
        return build_detection_train_loader(**arguments)
    return build_resumable_train_loader(**arguments, seed=seed)


def set_first_batch(loader: Any, number: int) -> None:
    """Let a loader of ``build_resumable_train_loader`` begin with the batch of that number; leave others alone."""
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, _BatchStream):
        batches.start = number


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Any:
    """Build Detectron2's test loader; its errors name the image that cannot be loaded."""
    return build_detection_test_loader(cfg, dataset_name, mapper=NamingMapper(ImageMapper(cfg, is_train=False)))


def class_names_of(datasets: str | Sequence[str]) -> list[str]:
    """Return the names of the classes of a dataset, or of the first of several; none where Detectron2 knows none."""
    names = [datasets] if isinstance(datasets, str) else [*datasets]
    return list(MetadataCatalog.get(names[0]).get("thing_classes") or []) if names else []


def evaluate_by_name(evaluator: DatasetEvaluator, places: Sequence[int] | None) -> DatasetEvaluator:
    """Let an evaluator take a model's classes at the places that they have in the data (``match_classes``)."""
    if places is not None:
        table, process = torch.tensor(places), evaluator.process

        def process_by_name(inputs: Any, outputs: Any) -> None:
            for found in (output["instances"] for output in outputs if "instances" in output):
                found.pred_classes = table.to(found.pred_classes.device)[found.pred_classes]
            process(inputs, outputs)

        evaluator.process = process_by_name
    return evaluator


def check_evaluator(dataset_name: str) -> None:
    """Raise a ``ConfigError`` before the training where the package of a dataset's evaluator is not installed."""
    package = _EVALUATOR_PACKAGES.get(MetadataCatalog.get(dataset_name).get("evaluator_type", ""))
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(f"DATASETS.TEST has {dataset_name}, whose evaluation needs the package {package}: install it")


def limit_of_detections(detections_per_image: int) -> int | None:
    """Return the detections of an image that COCO's evaluation has to count; None for its own 100."""
    limit = max(detections_per_image, COCO_MAX_DETECTIONS)
    logger.info("AP counts at most %d detections per image; the model outputs up to %d", limit, detections_per_image)
    return None if limit == COCO_MAX_DETECTIONS else limit


def build_evaluator(dataset_name: str, output_folder: str, detections_per_image: int = 100) -> DatasetEvaluator:
    """Build the evaluator of a dataset's ``evaluator_type``, as Detectron2's own ``train_net.py`` does.

    COCO's counts 100 detections of an image, or ``detections_per_image`` where a model gives more.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    semantic = partial(SemSegEvaluator, dataset_name, output_dir=output_folder)
    limit = limit_of_detections(detections_per_image)
    instances = partial(COCOEvaluator, dataset_name, output_dir=output_folder, max_dets_per_image=limit)
    builders: dict[str, Callable[[], DatasetEvaluator]] = {
        "sem_seg": semantic,
        "coco": instances,
        "coco_panoptic_seg": lambda: DatasetEvaluators(
            [semantic(), instances(), COCOPanopticEvaluator(dataset_name, output_folder)]
        ),
        "cityscapes_instance": partial(CityscapesInstanceEvaluator, dataset_name),
        "cityscapes_sem_seg": partial(CityscapesSemSegEvaluator, dataset_name),
        "pascal_voc": partial(PascalVOCDetectionEvaluator, dataset_name),
        "lvis": partial(_lvis_evaluator, dataset_name, output_folder),
    }
    if kind not in builders:
        raise ConfigError(f"the dataset {dataset_name} needs an evaluator_type of {', '.join(builders)}, got {kind}")
    return builders[kind]()


def _lvis_evaluator(dataset_name: str, output_folder: str) -> LVISEvaluator:
    # The last release of lvis, 0.5.3, names numpy.float, which numpy 1.24 dropped. Only it sees this stand-in.
    evaluation: Any = importlib.import_module("lvis.eval")
    if not hasattr(evaluation.np, "float"):
        evaluation.np = SimpleNamespace(**{**vars(evaluation.np), "float": float})
    return LVISEvaluator(dataset_name, output_dir=output_folder)
