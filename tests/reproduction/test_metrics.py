"""The curves and final metrics of a training are what the frameworks' own writers wrote."""

import json
import math

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("mmengine")


from reproduction.common import NETWORKS
from reproduction.metrics import final_metrics, read_curves, training_files
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import RECIPES
from resnest_backbones.outputs import read_metrics
from tests.reproduction.report_sample import write_detectron2, write_mmengine

NAME = "any_recipe"
DETECTOR, SEGMENTOR = "faster_rcnn_resnest50_fpn_1x", "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"


def test_detectron2s_loss_and_metrics_have_the_names_of_the_records(tmp_path):
    file = write_detectron2(tmp_path, NAME, range(19, 100, 20), [59, 99], ("bbox/AP", "segm/AP", "panoptic_seg/PQ"))
    curves = read_curves(tmp_path / NAME, "detectron2")
    assert list(curves) == ["loss", "box_ap", "mask_ap", "pq"]
    assert curves["loss"][0] == [19, 39, 59, 79, 99]
    assert curves["pq"] == ([59, 99], pytest.approx([30 - 20 * math.exp(-step / 15000) for step in (59, 99)]))
    assert training_files(tmp_path / NAME, "detectron2") == [file]


def test_what_a_resumed_training_logged_last_counts(tmp_path):
    file = write_detectron2(tmp_path, NAME, range(19, 200, 20))
    with open(file, "a") as stream:
        stream.write('{"iteration": 59, "total_loss": 7.0}\n')
    assert read_metrics(file)["total_loss"][0] == [19, 39, 59]
    assert read_metrics(file)["total_loss"][1][-1] == 7.0


def test_lines_that_are_no_records_are_left_out_and_values_that_are_not_finite_kept(tmp_path):
    file = write_detectron2(tmp_path, NAME, range(19, 20))
    before = read_metrics(file)
    wrong = ["[1, 2]", "null", "\xff", "[" * 100000, '{"iteration": 1e3, "total_loss": 1}']
    wrong += ['{"iteration": 39, "total_loss": "high", "lr": true}', '{"iteration": 119, "total_l']
    file.write_text(file.read_text() + "\n".join(wrong) + "\n", encoding="latin-1")
    assert read_metrics(file) == before
    values = ["1.0", "NaN", "Infinity", "-1" + "0" * 400]
    file.write_text("".join(f'{{"iteration": {i}, "total_loss": {value}}}\n' for i, value in enumerate(values)))
    iterations, found = read_metrics(file)["total_loss"]
    assert iterations == [0, 1, 2, 3] and found[0] == 1.0
    assert math.isnan(found[1]) and found[2:] == [math.inf, -math.inf]


def test_mmengines_starts_are_joined_and_the_later_one_counts(tmp_path):
    write_mmengine(tmp_path, NAME, range(50, 301, 50), [200], start="20260102_000000")
    write_mmengine(tmp_path, NAME, range(50, 1001, 50), [200, 400], start="20260101_000000")
    curves = read_curves(tmp_path / NAME, "mmseg")
    assert curves["loss"][0] == list(range(50, 301, 50))
    assert curves["miou"][0] == [200]
    files = training_files(tmp_path / NAME, "mmseg")
    assert [file.parts[-3] for file in files] == ["20260101_000000", "20260102_000000"]


# Final metrics


def test_the_last_evaluation_of_a_detector_counts_and_nan_is_none(tmp_path):
    (tmp_path / "train").mkdir()
    lines = ['{"bbox/AP": 1.0, "segm/AP": 2.0}', '{"total_loss": 1.0}', '{"bbox/AP": NaN, "segm/AP": 3.5}', '{"bbox/A']
    (tmp_path / "train" / "metrics.json").write_text("\n".join(lines))
    assert final_metrics(RECIPES["mask_rcnn_resnest50_fpn_1x"], tmp_path) == {"box_ap": None, "mask_ap": 3.5}


def test_an_evaluation_gives_the_metrics_of_one_scale_of_its_last_attempt(tmp_path):
    def evaluation(*, several_scales: float) -> list[str]:
        lines = ["Rank of current process: 0. World size: 1"]
        for ap in (several_scales - 2, several_scales):
            lines += ["copypaste: Task: bbox", "copypaste: AP,AP50", f"copypaste: {ap:.4f},60.0000"]
            lines += ["Evaluating with test-time augmentation ..."]
        return lines[:-1]

    (tmp_path / "evaluate").mkdir()
    lines = [*evaluation(several_scales=30), *evaluation(several_scales=44.5)]
    (tmp_path / "evaluate" / "log.txt").write_text("\n".join(f"[01/01 00:00:00 d2]: {line}" for line in lines))
    assert final_metrics(RECIPES[DETECTOR], tmp_path) == {"box_ap": 42.5}


def test_a_segmentor_has_the_metrics_of_its_last_tests(tmp_path):
    for step, start, miou in (("test", "1", 9.0), ("test_tta", "1", 10.0), ("test_tta", "2", 20.0)):
        folder = tmp_path / step / start
        folder.mkdir(parents=True)
        (folder / f"{start}.json").write_text(json.dumps({"aAcc": 2 * miou, "mIoU": miou}) + "\n")
    assert final_metrics(RECIPES[SEGMENTOR], tmp_path) == {"miou_multi_scale": 20.0, "pix_acc_multi_scale": 40.0}
    both = RECIPES["fcn_resnest101-d8_4xb4-160k_ade20k-512x512"]
    assert final_metrics(both, tmp_path) == {"miou": 9.0, "miou_multi_scale": 20.0}


def test_a_network_has_the_accuracy_of_its_last_epoch_or_of_its_evaluation(tmp_path):
    for step, lines in (("train", ['{"iteration": 9, "loss": 2.0}', '{"iteration": 9, "top1": 60.0, "top5": 80.0}']), (
        "evaluate", ['{"iteration": 0, "top1": 81.04}']
    )):  # fmt: skip
        folder = tmp_path / step / step
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("\n".join(lines))
    assert final_metrics(NETWORKS["resnest50"], tmp_path / "train") == {"top1": 60.0}
    assert final_metrics(NETWORKS["resnest50"], tmp_path / "evaluate") == {"top1": 81.04}
    assert read_curves(tmp_path / "train", "pretrain") == {"loss": ([9], [2.0]), "top1": ([9], [60.0])}


def test_a_run_without_files_has_no_curves_and_no_metrics(tmp_path):
    assert read_curves(tmp_path / NAME, "mmseg") == read_curves(tmp_path / NAME, "detectron2") == {}
    for name in (DETECTOR, SEGMENTOR):
        with pytest.raises(ConfigError, match="must hold the metrics of an evaluation, got none of"):
            final_metrics(RECIPES[name], tmp_path)
