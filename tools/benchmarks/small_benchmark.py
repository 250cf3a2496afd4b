"""The small transfer benchmark: ResNeSt-50 against ResNet-50 on two small real data sets, with one recipe for both.

Detectors are trained on blood cells (boxes) and on nuclei (masks) with ``configs/detectron2/small``, each from scratch
and from a checkpoint that was pre-trained on the digits of ``demonstration.digits``, with several seeds. Of the
checkpoint, all is taken that has the same shape: every layer but those of the classes. The pre-training is one per
network, so the spread over seeds is that of the transfer alone.

``tools/small_benchmark.py`` runs it; ``small_benchmark.json`` keeps, of each data set, what a run of it gave.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checkout import TOOLS, environment_with_package
from resnest_backbones.checkpoint import write_atomically
from resnest_backbones.model_zoo import get_config_file

RECORD_FILE = Path(__file__).with_name("small_benchmark.json")
NETWORKS = ("resnet50", "resnest50")
STARTS = ("scratch", "digits")
RECIPES = ("gpu", "cpu")
_NUM_DIGIT_IMAGES = (1000, 100)
_TOOL = TOOLS / "train_net.py"


@dataclass(frozen=True)
class SmallDataset:
    """A data set of the benchmark.

    Attributes:
        name: of its folder, which holds ``images/`` and ``annotations/instances_{train,val}.json``.
        title: for readers.
        method: what is trained on it.
        metrics: names that Detectron2's evaluation gives the figures -> for readers.
    """

    name: str
    title: str
    method: str
    metrics: Mapping[str, str]


DATASETS = {
    "bccd": SmallDataset("bccd", "blood cells (BCCD)", "faster_rcnn", {"bbox/AP": "box AP", "bbox/AP50": "box AP50"}),
    "nuclei": SmallDataset(
        "nuclei",
        "nuclei",
        "mask_rcnn",
        {"bbox/AP": "box AP", "segm/AP": "mask AP", "segm/AP50": "mask AP50"},
    ),
}


class BenchmarkError(RuntimeError):
    """A data set is missing, or a training of the benchmark failed; the message names the log."""


@dataclass(frozen=True)
class SmallRun:
    """One training of the benchmark.

    Attributes:
        network: one of ``NETWORKS``.
        start: one of ``STARTS``.
        seed: of the training.
        figures: in percent, by the names of the data set's metrics.
        seconds: that it took, evaluation included.
    """

    network: str
    start: str
    seed: int
    figures: Mapping[str, float] = field(hash=False)
    seconds: float


@dataclass(frozen=True)
class SmallRecord:
    """What the benchmark gave on one data set.

    Attributes:
        dataset: a key of ``DATASETS``.
        recipe: one of ``RECIPES``.
        command: that ran it.
        date: when it ended, as year-month-day.
        machine: what it ran on.
        versions: package -> version.
        pretraining: network -> AP of its boxes on held-out digits, in percent, after the pre-training.
        runs: the trainings.
    """

    dataset: str
    recipe: str
    command: str
    date: str
    machine: str
    versions: Mapping[str, str] = field(hash=False)
    pretraining: Mapping[str, float] = field(hash=False)
    runs: tuple[SmallRun, ...]


def write_record(record: SmallRecord, file: Path = RECORD_FILE) -> None:
    """Put into a file what the benchmark gave on a data set; those of other data sets stay as they are."""
    records = {**(read_records(file) if file.is_file() else {}), record.dataset: record}
    content = json.dumps([asdict(records[name]) for name in DATASETS if name in records], indent=1) + "\n"
    write_atomically(file, lambda stream: stream.write(content.encode()))


def read_records(file: Path = RECORD_FILE) -> dict[str, SmallRecord]:
    """What ``write_record`` wrote, by data set."""
    records = [
        SmallRecord(**{**content, "runs": tuple(SmallRun(**run) for run in content["runs"])})
        for content in json.loads(file.read_text(encoding="utf-8"))
    ]
    return {record.dataset: record for record in records}


# Running


def run_benchmark(
    data: Path,
    output_dir: Path,
    *,
    recipe: str,
    seeds: Sequence[int],
    datasets: Sequence[str] = tuple(DATASETS),
    options: Sequence[str] = (),
) -> Iterator[tuple[str, dict[str, float], list[SmallRun]]]:
    """Pre-train, then train all combinations seed by seed; what ``output_dir`` holds of them is used again.

    Args:
        data: holds the folders of the data sets.
        output_dir: for data, logs and checkpoints.
        recipe: ``cpu`` for the shorter one.
        seeds: of the trainings.
        datasets: which of ``DATASETS``.
        options: keys and values for the config of every training.

    Yields:
        After each training: its data set, AP of the pre-training by network, and the data set's trainings so far.

    Raises:
        BenchmarkError: a data set is not there, or a training failed.
        ValueError: an argument is out of its range.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different numbers from 0 on, got {' '.join(map(str, seeds)) or 'none'}")
    if not datasets or not set(datasets) <= DATASETS.keys():
        raise ValueError(f"datasets must be of {', '.join(DATASETS)}, got {', '.join(datasets) or 'none'}")
    if not _TOOL.is_file():
        raise BenchmarkError(f"the benchmark runs in a checkout of the project, {_TOOL} is not there")
    sources = {name: [*_source(data / name), *options] for name in datasets}
    pretraining: dict[str, float] = {}
    runs: dict[str, list[SmallRun]] = {name: [] for name in datasets}
    for network in NETWORKS:
        pretraining[network] = _pretrain(network, output_dir, recipe, options)
    for seed in seeds:
        for name, source in sources.items():
            for start in STARTS:
                for network in NETWORKS:
                    runs[name].append(_transfer(DATASETS[name], source, network, start, seed, output_dir, recipe))
                    yield name, pretraining, runs[name]


def config_name(method: str, network: str, dataset: str, recipe: str) -> str:
    """Short name of a config of the benchmark."""
    return f"{method}_{network}_fpn_{dataset}{'_cpu' if recipe == 'cpu' else ''}"


def _source(folder: Path) -> list[str]:
    """The options of ``tools/train_net.py`` for a data set's folder."""
    files = {split: folder / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
    missing = [str(path) for path in (folder / "images", *files.values()) if not path.exists()]
    if missing:
        raise BenchmarkError(
            f"{folder} must hold images/ and annotations/instances_{{train,val}}.json, no {missing[0]}"
        )
    return _data_options(files["train"], folder / "images", files["val"], folder / "images")


def _data_options(train_json: Path, train_images: Path, val_json: Path, val_images: Path) -> list[str]:
    options = {"train-json": train_json, "train-images": train_images, "val-json": val_json, "val-images": val_images}
    return [word for name, path in options.items() for word in (f"--{name}", str(path))]


def _checkpoint_folder(network: str, output_dir: Path) -> Path:
    return output_dir / f"digits_{network}"


def _pretrain(network: str, output_dir: Path, recipe: str, extra: Sequence[str]) -> float:
    """AP of boxes on held-out digits."""
    from demonstration.common import make_dataset

    digits = make_dataset(output_dir / "digits", num_train=_NUM_DIGIT_IMAGES[0], num_val=_NUM_DIGIT_IMAGES[1])
    options = _data_options(digits.train_json, digits.train_images, digits.val_json, digits.val_images)
    config = config_name("mask_rcnn", network, "digits", recipe)
    figures, _ = _train(_checkpoint_folder(network, output_dir), config, [*options, *extra, "SEED", "1"])
    return _figure(figures, "bbox/AP")


def _transfer(
    dataset: SmallDataset, source: Sequence[str], network: str, start: str, seed: int, output_dir: Path, recipe: str
) -> SmallRun:
    options = [*source, "SEED", str(seed)]
    if start == "digits":
        options += ["MODEL.WEIGHTS", str(_checkpoint_folder(network, output_dir) / "model_final.pth")]
    folder = output_dir / f"{dataset.name}_{network}_{start}_{seed}"
    figures, seconds = _train(folder, config_name(dataset.method, network, dataset.name, recipe), options)
    return SmallRun(network, start, seed, {name: _figure(figures, name) for name in dataset.metrics}, round(seconds))


def _train(folder: Path, config: str, options: Sequence[str]) -> tuple[dict[str, float], float]:
    """Figures of the last evaluation, and the seconds of the attempt that finished; trains unless that was done."""
    done, log = folder / "figures.json", folder / "console.txt"
    arguments = ["--resume", "--config-file", get_config_file(config), *options, "OUTPUT_DIR", str(folder)]
    command = shlex.join([_TOOL.name, *arguments])
    _require_same_training(log, command)
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with open(log, "a") as stream:
            print(command, file=stream, flush=True)
            words = [sys.executable, str(_TOOL), *arguments]
            environment = environment_with_package(os.environ)
            status = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT, env=environment).returncode
        if status:
            raise BenchmarkError(f"{config} failed with status {status}; its log is {log}")
        content = {"figures": _last_figures(folder / "metrics.json"), "seconds": time.monotonic() - start}
        text = json.dumps(content, indent=1)
        write_atomically(done, lambda stream: stream.write(text.encode()))
    finished = json.loads(done.read_text())
    return finished["figures"], finished["seconds"]


def _figure(figures: Mapping[str, float], name: str) -> float:
    """A figure; the AP of a detector that finds nothing is 0, which Detectron2 gives as NaN, or not at all."""
    value = figures.get(name, math.nan)
    return 0.0 if math.isnan(value) else round(value, 3)


def _require_same_training(log: Path, command: str) -> None:
    """Refuse to take what a folder holds for the training of another recipe or other options."""
    if not log.is_file():
        return
    with open(log, encoding="utf-8", errors="replace") as stream:
        earlier = stream.readline().strip()
    # Folders may have been moved.
    one, other = ([Path(word).name for word in shlex.split(line)] for line in (earlier, command))
    if one != other:
        raise BenchmarkError(
            f"{log.parent} holds a training with other settings ({earlier}); choose another --output-dir"
        )


def _last_figures(file: Path) -> dict[str, float]:
    """The figures of the last evaluation in ``metrics.json``, where a training that was killed may leave half a line.

    Raises:
        BenchmarkError: there is none.
    """
    figures: dict[str, float] = {}
    for line in file.read_text().splitlines():
        try:
            found = {name: value for name, value in json.loads(line).items() if "/AP" in name}
        except ValueError:
            continue
        figures = found or figures
    if not figures:
        raise BenchmarkError(f"{file} must hold the figures of an evaluation, got none")
    return figures


# The tables


def _cell(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation of the sample."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def summarise(record: SmallRecord) -> Iterator[tuple[str, str, Mapping[str, list[float]]]]:
    """Start, title of a metric, and network -> values in percent over the seeds; those with any run."""
    for start in STARTS:
        runs = [run for run in record.runs if run.start == start]
        for metric, title in DATASETS[record.dataset].metrics.items():
            if runs:
                yield start, title, {n: [run.figures[metric] for run in runs if run.network == n] for n in NETWORKS}


def small_table(records: Mapping[str, SmallRecord] | None = None) -> str:
    """Mean and standard deviation over the seeds, of both networks, and the difference of the means."""
    records = read_records() if records is None else records
    head = ("data set", "start", "figure (%)", "ResNet-50", "ResNeSt-50", "difference", "seeds")
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for record in records.values():
        for start, title, values in summarise(record):
            resnet, resnest = (values[network] for network in NETWORKS)
            difference = f"{statistics.mean(resnest) - statistics.mean(resnet):+.2f}" if resnet and resnest else ""
            counts = " and ".join(str(n) for n in sorted({len(resnet), len(resnest)}))
            data = DATASETS[record.dataset].title
            cells = (data, start, title, _cell(resnet), _cell(resnest), difference, counts)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def circumstances_table(records: Mapping[str, SmallRecord] | None = None) -> str:
    """How the figures of each data set came about."""
    records = read_records() if records is None else records
    head = ("data set", "recipe", "command", "date", "machine", "versions", "AP of digits, ResNet-50", "ResNeSt-50")
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- | --- | --- | --- | ---: | ---: |"]
    for record in records.values():
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        digits = (f"{record.pretraining[network]:.2f}" for network in NETWORKS)
        data = DATASETS[record.dataset].title
        cells = (data, record.recipe, f"`{record.command}`", record.date, record.machine, versions, *digits)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
