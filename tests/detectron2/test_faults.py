"""What ``tools/train_net.py`` makes of odd images, broken files, full disks and losses that are no numbers."""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

import train_net
from resnest_backbones.checkpoint import read_checkpoint
from resnest_backbones.detectron2.engine import train
from resnest_backbones.detectron2.engine.data import build_test_loader
from resnest_backbones.errors import CheckpointError, DatasetError, DivergedError
from tests.helpers import ODD_IMAGES, ROOT, TINY_DETECTOR, error_of, interrupted_at, odd_image, read_only, small_disk

CONFIG = ROOT / "configs" / "detectron2" / "coco_detection" / "faster_rcnn_resnest50_fpn_1x.yaml"


def write_coco(folder: Path, names: list[str], *, boxes: dict[str, list[list[float]]] | None = None) -> list:
    """Images by the names of their kinds, with a box of most of each; the options that train and evaluate on them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        file, width, height = odd_image(name, folder / "images")
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
        for box in (boxes or {}).get(name, [[0.1 * width, 0.1 * height, 0.8 * width, 0.8 * height]]):
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box})
            annotations[-1] |= {"area": box[2] * box[3], "iscrowd": 0}
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "data.json").write_text(json.dumps(content))
    files = ["json", folder / "data.json"], ["images", folder / "images"]
    return [word for split in ("train", "val") for kind, path in files for word in (f"--{split}-{kind}", path)]


def parse(data: list, output: Path, iterations: int = 1, *options: object, **keys: object) -> argparse.Namespace:
    """The command line of a small training, or evaluation."""
    extra = [word for pair in keys.items() for word in pair]
    given = ["OUTPUT_DIR", output, "SOLVER.MAX_ITER", iterations, "SEED", 3, "MODEL.RESNETS.NORM", "BN", *extra]
    arguments = ["--config-file", CONFIG, *options, *data, *TINY_DETECTOR, *given]
    return train_net.build_argument_parser().parse_args(list(map(str, arguments)))


def run(*arguments: Any, **keys: object) -> dict:
    """Train as the tool does, in this process."""
    return train.main(parse(*arguments, **keys))


@pytest.mark.fault("odd images", "a detector trains on them and is evaluated")
def test_odd_images_are_trained_on_and_evaluated(tmp_path, record_property):
    """Among them one without annotations, and one with boxes that hold nothing."""
    boxes = {"grey": [], "cmyk": [[5.0, 5.0, 0.0, 0.0], [5.0, 5.0, 20.0, 0.0]]}
    data = write_coco(tmp_path, ODD_IMAGES, boxes=boxes)
    keys = {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False, "SOLVER.IMS_PER_BATCH": 4}
    results = run(data, tmp_path / "run", 2, **keys)
    assert results["bbox"]["AP"] >= 0
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [record["total_loss"] for record in losses if "total_loss" in record][-1] > 0
    record_property("times", len(ODD_IMAGES))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("truncated", "image file is truncated"), ("wide", "height and width must be > 0"),
     ("web page", "cannot be read.*its format is unknown")],
)  # fmt: skip
@pytest.mark.fault("images that cannot be used", "an error names the file")
def test_an_image_that_cannot_be_used_is_named(name, reason, tmp_path):
    data = write_coco(tmp_path, [name, name])

    sizes = {"INPUT.MIN_SIZE_TRAIN": "(800,800)", "INPUT.MIN_SIZE_TEST": 800}

    def evaluate() -> None:
        cfg = train.YamlRun(parse(data[4:], tmp_path / "eval", 1, "--eval-only", **sizes)).cfg
        next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0])))

    for work in (lambda: run(data, tmp_path / "run", 1, **sizes), evaluate):
        with pytest.raises(DatasetError, match=reason) as error:
            work()
        assert odd_image(name, tmp_path)[0].name in str(error.value)


@pytest.mark.parametrize("norm", ["BN", "naiveSyncBN"])
@pytest.mark.fault("a loss that becomes NaN", "the training ends, naming iteration, learning rate and images")
def test_a_loss_that_is_no_number_ends_the_training_with_where_it_was(norm, tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    keys = {"SOLVER.BASE_LR": 1e20, "SOLVER.WARMUP_ITERS": 0, "SOLVER.CHECKPOINT_PERIOD": 1, "MODEL.FPN.NORM": norm}
    with pytest.raises(DivergedError, match=r"iteration [1-9], at learning rate 1e\+20, with the images ") as error:
        run(data, tmp_path / "run", 9, **keys)
    assert "plain.png" in str(error.value) and "grey.png" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.fault("a loss that becomes NaN", "the training ends, naming iteration, learning rate and images")
def test_no_weight_becomes_nan_before_the_training_ends(tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    with pytest.raises(DivergedError, match=r"iteration 0, .* the loss is not finite: .*loss_box_reg (inf|nan)"):
        run(data, tmp_path / "run", 9, **{"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": "1e400"})


@pytest.mark.fault("a full disk", "the training ends, naming the file, and resumes with more room")
def test_a_full_disk_ends_the_training_and_leaves_the_last_checkpoint(tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    keys = {"SOLVER.CHECKPOINT_PERIOD": 1, "DATASETS.TEST": "()", "TEST.PRECISE_BN.ENABLED": False}
    with small_disk(tmp_path / "run", 130_000) as output:
        with pytest.raises(OSError, match=r"model_0000001\.pth could not be written: No space left on device"):
            run(data, output, 3, **keys)
        assert [file.name for file in output.glob("*.pth")] == ["model_0000000.pth"]
        assert not [*output.glob(".*.partial")]
        assert read_checkpoint(output / "model_0000000.pth")["iteration"] == 0
        subprocess.run(["mount", "-o", "remount,size=600m", str(output)], check=True)
        run(data, output, 2, "--resume", **keys)
        assert read_checkpoint(output / "model_final.pth")["iteration"] == 1


@pytest.mark.fault("a read-only output folder", "the tool ends in one line that names it")
def test_a_read_only_output_folder_is_missed_before_the_training(tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    (tmp_path / "run").mkdir()
    with read_only(tmp_path / "run"), pytest.raises(OSError, match=f"{tmp_path}/run cannot be written: Read-only"):
        run(data, tmp_path / "run")
    (tmp_path / "file").write_text("")
    message = error_of(train_net.run, "--config-file", CONFIG, *data, "OUTPUT_DIR", tmp_path / "file" / "run")
    assert message.endswith(f": error: the output folder {tmp_path}/file/run cannot be written: Not a directory")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "web page"])
@pytest.mark.fault("a damaged checkpoint to resume from", "an error names the file")
def test_a_damaged_checkpoint_is_not_gone_on_with(damage, tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    file = tmp_path / "run" / "model_0000000.pth"
    file.parent.mkdir()
    torch.save({"model": {"weight": torch.ones(1000)}, "iteration": 0}, file)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[content.index(torch.ones(9).numpy().tobytes()) + 2] ^= 1
    file.write_bytes({"truncated": content[:-700], "flipped": content, "web page": b"<html>Sign in</html>"}[damage])
    (tmp_path / "run" / "last_checkpoint").write_text(file.name)
    with pytest.raises(CheckpointError, match=f"{file}.*(truncated or damaged|web page)"):
        run(data, tmp_path / "run", 2, "--resume")


def test_what_a_kill_left_half_written_is_removed_by_the_next_training(tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    left = tmp_path / "run" / ".model_0000003.pth.999999.partial"
    left.parent.mkdir()
    left.write_bytes(b"half")
    shutil.copy(left, tmp_path / "run" / "kept.txt")
    train.YamlRun(parse(data, tmp_path / "run"))
    assert not left.exists() and (tmp_path / "run" / "kept.txt").exists()


def test_only_crowds_are_nothing_to_train_on(tmp_path):
    data = write_coco(tmp_path, ["plain", "grey"])
    file = tmp_path / "data.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    with pytest.raises(DatasetError, match=r"data\.json has no annotations to train on \(crowds do not count\)"):
        run(data, tmp_path / "run")


def test_ctrl_c_says_what_was_saved_and_how_to_go_on(tmp_path, capsys):
    data = write_coco(tmp_path / "data", ["plain", "grey"])
    folder = tmp_path / "out"
    words = ["--config-file", CONFIG, *data, *TINY_DETECTOR, "SOLVER.MAX_ITER", 500, "OUTPUT_DIR", folder]
    with pytest.raises(SystemExit) as raised, interrupted_at(folder / "last_checkpoint"):
        train_net.run([*map(str, words), "SOLVER.CHECKPOINT_PERIOD", "1"])
    assert raised.value.code == 130
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f": interrupted; the last checkpoint is {folder / 'model_00'}" in line and line.endswith("with --resume")


def test_weights_that_cannot_be_downloaded_can_be_left_out_as_the_error_says(tmp_path):
    data = write_coco(tmp_path / "data", ["plain", "grey"])
    with pytest.raises(CheckpointError, match="refused.*; MODEL.WEIGHTS '' .* trains without initial weights"):
        run(data, tmp_path / "out", **{"MODEL.WEIGHTS": "http://127.0.0.1:9/weights.pth"})
