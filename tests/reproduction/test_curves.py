"""The curves of a training are what the frameworks' own writers wrote."""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage, JSONWriter
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS
from mmengine.runner import Runner

from reproduction.curves import Curve, read_curves
from tests.reproduction.report_sample import write_detectron2, write_mmengine

ROW = "any_row"


def read(root, framework) -> dict[str, Curve]:
    return {curve.name: curve for curve in read_curves(root / ROW, framework).curves}


def test_detectron2s_loss_and_figures_are_found_under_the_names_of_the_records(tmp_path):
    keys = ("bbox/AP", "segm/AP", "panoptic_seg/PQ")
    file = write_detectron2(tmp_path, ROW, range(19, 100, 20), [59, 99], keys)
    curves = read(tmp_path, "detectron2")
    assert list(curves) == ["loss", "box_ap", "mask_ap", "pq"]
    assert curves["loss"].iterations == [19, 39, 59, 79, 99]
    assert curves["mask_ap"].iterations == [59, 99]
    assert curves["pq"].values == pytest.approx([30 - 20 * math.exp(-step / 15000) for step in (59, 99)])
    assert read_curves(tmp_path / ROW, "detectron2").files == (file,)


def test_lines_that_detectron2_writes_late_stand_at_their_iteration(tmp_path):
    folder = tmp_path / ROW / "train"
    folder.mkdir(parents=True)
    writer = JSONWriter(str(folder / "metrics.json"))
    with EventStorage(0) as storage:
        for iteration in range(40):  # evaluated between two writes, as with an EVAL_PERIOD that is no multiple of 20
            storage.iter = iteration
            storage.put_scalars(total_loss=1.0)
            if iteration == 29:
                storage.put_scalars(smoothing_hint=False, **{"bbox/AP": 12.5})
            if iteration % 20 == 19:
                writer.write()
    writer.close()
    curves = read(tmp_path, "detectron2")
    assert curves["loss"].iterations == [19, 39]
    assert (curves["box_ap"].iterations, curves["box_ap"].values) == ([29], [12.5])


def test_what_a_resumed_training_gave_anew_counts(tmp_path):
    file = write_detectron2(tmp_path, ROW, range(19, 200, 20))
    text = file.read_text().replace("total_loss", "unknown")
    file.write_text(text.replace('"unknown"', '"total_loss"', 5))  # the first five
    write_detectron2(tmp_path, ROW, range(59, 120, 20))
    with open(file, "a") as stream:
        stream.write('{"iteration": 59, "total_loss": 7.0}\n')
    loss = read(tmp_path, "detectron2")["loss"]
    assert loss.iterations == [19, 39, 59]
    assert loss.values[-1] == 7.0


def test_a_line_cut_short_is_left_out_and_counted(tmp_path):
    file = write_detectron2(tmp_path, ROW, range(19, 100, 20))
    with open(file, "ab") as stream:
        stream.write(b'{"iteration": 119, "total_loss": 0.')
    assert read_curves(tmp_path / ROW, "detectron2").unreadable_lines == 1
    write_detectron2(tmp_path, ROW, [119, 139])  # the resumed run goes on in the same line
    found = read_curves(tmp_path / ROW, "detectron2")
    assert found.unreadable_lines == 1
    assert found.curves[0].iterations == [19, 39, 59, 79, 99, 139]


@pytest.mark.parametrize("line", ["[1, 2]", "5", "null", "\xff", "[" * 100000, '{"iteration": 1e3, "total_loss": 1}'])
def test_a_line_that_is_no_object_of_the_framework_breaks_nothing(tmp_path, line):
    file = write_detectron2(tmp_path, ROW, [19])
    with open(file, "a", encoding="latin-1") as stream:
        stream.write(line + "\n")
    assert read(tmp_path, "detectron2")["loss"].iterations == [19]


def test_nan_and_endless_values_are_read_and_not_drawable(tmp_path):
    folder = tmp_path / ROW / "train"
    folder.mkdir(parents=True)
    writer = JSONWriter(str(folder / "metrics.json"))
    with EventStorage(0) as storage:
        for storage.iter, loss in enumerate([1.0, math.nan, math.inf, 2.0]):
            storage.put_scalar("total_loss", loss, smoothing_hint=False)
            writer.write()
    writer.close()
    with open(folder / "metrics.json", "a") as stream:
        stream.write('{"iteration": 9, "total_loss": 1' + "0" * 400 + "}\n")
    loss = read(tmp_path, "detectron2")["loss"]
    assert loss.iterations == [0, 1, 2, 3, 9]
    assert loss.drawable() == [(0, 1.0), (3, 2.0)]


def test_mmengines_starts_are_joined_and_the_later_one_counts(tmp_path):
    write_mmengine(tmp_path, ROW, range(50, 301, 50), [200], start="20260102_000000")
    write_mmengine(tmp_path, ROW, range(50, 1001, 50), [200, 400], start="20260101_000000")
    found = read_curves(tmp_path / ROW, "mmseg")
    curves = {curve.name: curve for curve in found.curves}
    assert curves["loss"].iterations == list(range(50, 301, 50))
    assert curves["miou"].iterations == [200]
    assert [file.parts[-3] for file in found.files] == ["20260101_000000", "20260102_000000"]


def test_a_training_without_files_has_no_curves(tmp_path):
    assert read_curves(tmp_path / ROW, "mmseg").curves == ()
    assert read_curves(tmp_path / ROW, "detectron2").files == ()


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x, mode="tensor"):
        y = self.layer(x)
        return {"loss_a": (y**2).mean()} if mode == "loss" else [y]


@pytest.fixture
def metric_of_a_test():
    class AlwaysTheSame(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(1)

        def compute_metrics(self, results):
            return {"mIoU": 30.0}

    METRICS.register_module(name="AlwaysTheSame", module=AlwaysTheSame)
    yield
    METRICS.module_dict.pop("AlwaysTheSame")


def test_a_validation_of_a_training_by_epochs_stands_at_an_iteration(tmp_path, metric_of_a_test):
    """MMEngine gives the epoch as its "step": drawn as it is, all would stand at the left edge."""
    loader = {
        "batch_size": 2,
        "dataset": [{"x": torch.full((1,), float(index))} for index in range(12)],
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
    }
    runner = Runner(
        model=Tiny(),
        work_dir=str(tmp_path / ROW / "train"),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator={"type": "AlwaysTheSame"},
        train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": 4, "val_interval": 2},
        val_cfg={},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-4}},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 3}},
        log_level="ERROR",
    )
    runner.train()
    curves = read(tmp_path, "mmseg")
    assert curves["loss"].iterations == [3, 6, 9, 12, 15, 18, 21, 24]
    assert curves["miou"].iterations == [12, 24]
