"""What the small transfer benchmark measured, kept in ``small_benchmark.json``, and its tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import resnest_backbones as rb
from markdown_table import markdown_table

RECORD_FILE = Path(__file__).with_name("small_benchmark.json")
NETWORKS = ("resnet50", "resnest50")
STARTS = ("scratch", "digits")


@dataclass(frozen=True)
class SmallDataset:
    title: str  # for readers
    method: str  # what is trained on it
    metrics: Mapping[str, str]  # Detectron2's names -> for readers


# By the names of their folders, which hold images/ and annotations/instances_{train,val}.json.
DATASETS = {
    "bccd": SmallDataset("blood cells (BCCD)", "faster_rcnn", {"bbox/AP": "box AP", "bbox/AP50": "box AP50"}),
    "nuclei": SmallDataset(
        "nuclei", "mask_rcnn", {"bbox/AP": "box AP", "segm/AP": "mask AP", "segm/AP50": "mask AP50"}
    ),
}


@dataclass(frozen=True)
class SmallRun:
    """One training: its network, start and seed, metrics in percent, and seconds with evaluation."""

    network: str
    start: str
    seed: int
    metrics: Mapping[str, float] = field(hash=False)
    seconds: float


@dataclass(frozen=True)
class SmallRecord:
    """What the benchmark measured on one dataset."""

    dataset: str  # a key of DATASETS
    recipe: str  # gpu, or cpu, which is shorter
    command: str
    date: str  # when it ended, as year-month-day
    machine: str
    versions: Mapping[str, str] = field(hash=False)  # package -> version
    pretraining: Mapping[str, float] = field(hash=False)  # network -> box AP on held-out digits, in percent
    runs: tuple[SmallRun, ...]


def write_record(record: SmallRecord, file: Path = RECORD_FILE) -> None:
    """Write the record of a dataset to a file that keeps those of other datasets."""
    records = {**(read_records(file) if file.is_file() else {}), record.dataset: record}
    content = json.dumps([asdict(records[name]) for name in DATASETS if name in records], indent=1) + "\n"
    rb.checkpoint.write_atomically(file, lambda stream: stream.write(content.encode()))


def read_records(file: Path = RECORD_FILE) -> dict[str, SmallRecord]:
    """Return what ``write_record`` wrote, by dataset."""
    records = (
        SmallRecord(**{**content, "runs": tuple(SmallRun(**run) for run in content["runs"])})
        for content in json.loads(file.read_text(encoding="utf-8"))
    )
    return {record.dataset: record for record in records}


def small_table(records: Mapping[str, SmallRecord] | None = None) -> str:
    """Return means and standard deviations over the seeds of both networks, and the differences of the means."""
    rows = [row for record in (read_records() if records is None else records).values() for row in _rows(record)]
    head = ("dataset", "start", "metric (%)", "ResNet-50", "ResNeSt-50", "difference", "seeds")
    return markdown_table(head, rows, "lllr")


def _rows(record: SmallRecord) -> Iterator[tuple[str, ...]]:
    dataset = DATASETS[record.dataset]
    for start in STARTS:
        runs = [run for run in record.runs if run.start == start]
        for metric, title in dataset.metrics.items() if runs else ():
            resnet, resnest = ([run.metrics[metric] for run in runs if run.network == name] for name in NETWORKS)
            difference = f"{statistics.mean(resnest) - statistics.mean(resnet):+.2f}" if resnet and resnest else ""
            seeds = " and ".join(str(number) for number in sorted({len(resnet), len(resnest)}))
            yield dataset.title, start, title, _cell(resnet), _cell(resnest), difference, seeds


def _cell(values: Sequence[float]) -> str:
    """Return the mean and, of several values, the standard deviation of the sample."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}" if values else ""


def circumstances_table(records: Mapping[str, SmallRecord] | None = None) -> str:
    """Return how the metrics of each dataset were measured."""
    rows = []
    for record in (read_records() if records is None else records).values():
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
        digits = (f"{record.pretraining[network]:.2f}" for network in NETWORKS)
        how = (record.recipe, f"`{record.command}`", record.date, record.machine, versions)
        rows.append((DATASETS[record.dataset].title, *how, *digits))
    head = ("dataset", "recipe", "command", "date", "machine", "versions", "AP of digits, ResNet-50", "ResNeSt-50")
    return markdown_table(head, rows, "llllllr")
