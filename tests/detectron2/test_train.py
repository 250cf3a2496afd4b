"""``tools/train_net.py`` on real images: train, evaluate, be killed and go on, on whatever machine this is."""

import argparse
import contextlib
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("detectron2")

from torch._dynamo.utils import counters

import train_net
from resnest_backbones.commands import train_net as command
from resnest_backbones.detectron2.engine import run_setup, train
from resnest_backbones.detectron2.options import load_yaml_config
from resnest_backbones.errors import DatasetError
from resnest_backbones.train import Training, train_detector
from tests.detectron2.trainings import CONFIG, parse, run, tiny
from tests.helpers import run_tool


def load(file: Path) -> dict:
    return torch.load(file, weights_only=True)


def assert_same_end(folder: Path, other: Path) -> None:
    """Weights, momenta, schedule and number of the last iteration are equal."""
    one, two = (load(f / "model_final.pth") for f in (folder, other))
    assert one["model"].keys() == two["model"].keys() and one["iteration"] == two["iteration"]
    assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    first, second = (end["trainer"].get("_trainer", end["trainer"])["optimizer"]["state"] for end in (one, two))
    assert first and all(torch.equal(v["momentum_buffer"], second[k]["momentum_buffer"]) for k, v in first.items())
    assert one["trainer"].get("hooks") == two["trainer"].get("hooks")


def assert_equal_results(one: dict, two: dict) -> None:
    assert one.keys() == two.keys() and one
    for task, metrics in one.items():
        assert metrics == pytest.approx(two[task], rel=0, abs=0, nan_ok=True), task


def as_killed_after(checkpoint: str, folder: Path, copy: Path) -> Path:
    """A copy of a finished run as it was when that checkpoint was the last one."""
    copy.mkdir()
    shutil.copy(folder / checkpoint, copy)
    (copy / "last_checkpoint").write_text(checkpoint)
    return copy


class Trained(NamedTuple):
    folder: Path
    results: dict
    printed: str
    done: Training


EVERY = {"SOLVER.CHECKPOINT_PERIOD": 1}


@pytest.fixture(scope="module")
def trained(coco_mini, tmp_path_factory) -> Trained:
    """Two iterations on COCO's images by the tool itself, with a checkpoint after each; the config is removed then."""
    folder, results = tmp_path_factory.mktemp("trained"), {}
    (config := folder / "own.yaml").write_text(f"_BASE_: {CONFIG}\n")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        main, found = train.main, []

        def main_and_unlink(args: argparse.Namespace) -> dict:
            results.update(main(args))
            config.unlink()
            return results

        patch.setattr(train, "main", main_and_unlink)
        patch.setattr(command, "train_detector", lambda *args, **named: found.append(train_detector(*args, **named)))
        train_net.run(["--config-file", str(config), *map(str, [*coco_mini, *tiny(folder, 2, **EVERY)])])
    return Trained(folder, results, printed.getvalue(), *found)


def test_a_training_leaves_its_files_and_says_what_is_next(trained, coco_mini):
    folder, results, printed, done = trained
    assert (done.output_dir, done.model) == (folder, folder / "model_final.pth")
    assert done.metrics["bbox/AP"] == pytest.approx(results["bbox"]["AP"], nan_ok=True)
    assert results["bbox"].keys() >= {"AP", "AP50", "AP-person"}
    assert torch.cuda.is_available() or "No GPU found: running on the CPU" in printed
    assert "Running precise-BN" in printed
    assert load_yaml_config(folder / "config.yaml").DATASETS.CLASSES[0] == "person"
    log = (folder / "log.txt").read_text()
    assert "Running with full config" in log and "Running with full config" not in printed and "\x1b" not in log
    assert (folder / "model_final.pth").is_file() and (folder / "config.yaml").is_file()
    assert losses(folder / "metrics.json").keys() == {1}
    for word in ("tools/demo.py", folder / "config.yaml", folder / "model_final.pth", coco_mini[1]):
        assert str(word) in printed[printed.index("Next, ") :]
    state = load(folder / "model_final.pth")["trainer"]  # as Detectron2's DefaultTrainer writes it
    assert state.keys() == {"iteration", "hooks", "_trainer"} and state["_trainer"].keys() >= {"iteration", "optimizer"}


def test_the_saved_checkpoint_is_evaluated_to_the_same_metrics(trained, coco_mini, tmp_path):
    weights = ["MODEL.WEIGHTS", trained.folder / "model_final.pth"]
    assert_equal_results(run("--eval-only", *coco_mini[4:], *tiny(tmp_path, 3), *weights), trained.results)
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"model_final\.pth: (\d+) of \1 tensors match", log), log
    classes = load(trained.folder / "model_final.pth")["meta"]["CLASSES"]
    assert len(classes) == 80 and classes[0] == "person" and "matched by position" not in log
    files = [folder / "inference" / "coco_instances_results.json" for folder in (trained.folder, tmp_path)]
    assert json.loads(files[0].read_text()) == json.loads(files[1].read_text()) != []


def test_a_broken_off_training_resumes_to_the_very_same_weights_and_momenta(trained, coco_mini, tmp_path):
    folder = as_killed_after("model_0000000.pth", trained.folder, tmp_path / "run")
    assert_equal_results(run("--resume", *coco_mini, *tiny(folder, 2, **EVERY)), trained.results)
    assert "Starting training from iteration 1" in (folder / "log.txt").read_text()
    assert_same_end(folder, trained.folder)


def test_killed_between_the_last_two_checkpoints_it_writes_the_final_one_that_it_owes(trained, coco_mini, tmp_path):
    folder = as_killed_after("model_0000001.pth", trained.folder, tmp_path / "run")
    run("--resume", *coco_mini, *tiny(folder, 2, **EVERY))
    assert_same_end(folder, trained.folder)
    assert load(folder / "model_final.pth")["trainer"]["iteration"] == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="needs several GPUs, or none")
def test_processes_that_cannot_share_the_batch_of_the_training_evaluate(trained, coco_mini, tmp_path):
    """An evaluation takes images one by one."""
    command = ["--config-file", CONFIG, *coco_mini[4:], *tiny(tmp_path / "eval", 3, **{"SOLVER.IMS_PER_BATCH": 3})]
    command += ["MODEL.WEIGHTS", trained.folder / "model_final.pth"]
    status, printed = run_tool("train_net", "--num-gpus", 2, "--dist-url", "auto", "--eval-only", *command)
    assert status == 0 and "copypaste: AP," in printed, printed


def losses(metrics: Path) -> dict[int, float]:
    """The total loss at each iteration that a run logged, the last time it did."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {r["iteration"]: r["total_loss"] for r in records if "total_loss" in r}


def test_a_cascade_with_masks_has_test_time_augmentation(coco_mini, tmp_path):
    keys = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16, "TEST.AUG.ENABLED": True}
    keys |= {"TEST.PRECISE_BN.ENABLED": False, "INPUT.MIN_SIZE_TRAIN": "(64,64)", "INPUT.MIN_SIZE_TEST": 64}
    keys |= {"TEST.DETECTIONS_PER_IMAGE": 5}
    keys |= {"TEST.AUG.MIN_SIZES": "(64,)", "TEST.AUG.MAX_SIZE": 128, "MODEL.ROI_HEADS.NAME": "MMDetCascadeROIHeads"}
    run(*coco_mini, *tiny(tmp_path, 1, **keys), "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    log = (tmp_path / "log.txt").read_text()
    assert "test-time augmentation" in log and len(re.findall("Task: segm", log)) == 2
    assert (tmp_path / "inference_TTA" / "coco_instances_results.json").is_file()


def test_a_retinanet_has_none_and_says_so(coco_mini, tmp_path):
    keys = {"MODEL.META_ARCHITECTURE": "RetinaNet", "MODEL.BACKBONE.NAME": "build_retinanet_resnest_fpn_backbone"}
    keys |= {"TEST.AUG.ENABLED": True}
    yaml = train.YamlRun(parse("--config-file", CONFIG, *coco_mini, *tiny(tmp_path, 1, **keys)))
    assert yaml.evaluate_augmented(torch.nn.Identity()) == {}
    wanted = "TEST.AUG.ENABLED has no effect: Detectron2 has no test-time augmentation for RetinaNet"
    assert wanted in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="processes without a GPU each are for machines without one")
def test_two_processes_train_on_the_cpu_with_synchronised_batch_norm_and_resume(bccd, tmp_path):
    def train_on_two(iterations, *more):
        command = ["--num-gpus", 2, "--dist-url", "auto", "--config-file", CONFIG, *more, *bccd]
        train_net.run(list(map(str, [*command, *tiny(tmp_path, iterations, **EVERY), "DATASETS.TEST", "()"])))
        return (tmp_path / "log.txt").read_text()

    log = train_on_two(1)
    assert "SyncBatchNorm" in log and "World size: 2" in log
    assert "Starting training from iteration 1" in train_on_two(2, "--resume")
    assert (tmp_path / "model_final.pth").is_file()


LAZY = """
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from resnest_backbones.detectron2 import ResNeSt

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
dataloader = model_zoo.get_config("common/data/coco.py").dataloader
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train
features = ["res2", "res3", "res4", "res5"]
model.backbone.bottom_up = L(ResNeSt)(spec="resnest14", norm="SyncBN", freeze_at=2, out_features=features)
model.proposal_generator.pre_nms_topk = (100, 50)
model.proposal_generator.post_nms_topk = (20, 10)
model.roi_heads.batch_size_per_image = 16
model.roi_heads.box_predictor.test_topk_per_image = 3
model.backbone.out_channels = model.proposal_generator.head.in_channels = 32
model.roi_heads.box_head.input_shape.channels = model.roi_heads.mask_head.input_shape.channels = 32
model.roi_heads.box_head.fc_dims, model.roi_heads.mask_head.conv_dims = [32], [16]
model.roi_heads.box_predictor.input_shape.channels = 32
dataloader.train.mapper.augmentations[0].short_edge_length = (96, 128)
dataloader.test.mapper.augmentations[0].short_edge_length = 96
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = dataloader.test.num_workers = 0
"""


def test_a_lazy_config_trains_resumes_and_evaluates_likewise(coco_mini, tmp_path):
    config = tmp_path / "lazy.py"
    config.write_text(LAZY)

    def run_lazy(output, *more):
        keys = [f"train.output_dir={output}", "train.max_iter=2", "train.checkpointer.period=1", "+train.seed=4"]
        return train.main(parse("--config-file", config, *more, *keys))

    results = run_lazy(tmp_path / "whole", *coco_mini)
    broken = as_killed_after("model_0000000.pth", tmp_path / "whole", tmp_path / "broken")
    assert_equal_results(run_lazy(broken, "--resume", *coco_mini), results)
    assert "Starting training from iteration 1" in (broken / "log.txt").read_text()
    assert_same_end(broken, tmp_path / "whole")
    checkpoint = f"train.init_checkpoint={broken / 'model_final.pth'}"
    evaluated = run_lazy(tmp_path / "e", "--eval-only", *coco_mini[4:], checkpoint)
    assert_equal_results(evaluated, results)


@pytest.fixture
def types_of_convolutions() -> Iterator[set]:
    """In training and in evaluation, (training, type of the output)."""
    seen = set()

    def look(module, _, output):
        if isinstance(module, torch.nn.Conv2d):
            seen.add((module.training, output.dtype))

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    yield seen
    handle.remove()


IN_BFLOAT16 = {(True, torch.bfloat16), (False, torch.float32)}
no_gpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="mixed precision on a machine without a GPU")


@no_gpu_only
def test_mixed_precision_trains_in_bfloat16_on_the_cpu_and_resumes_without_it(bccd, tmp_path, types_of_convolutions):
    keys = {"TEST.PRECISE_BN.ENABLED": False, "INPUT.MIN_SIZE_TRAIN": "(48,48)", "INPUT.MIN_SIZE_TEST": 48}
    arguments = [*bccd, *tiny(tmp_path / "run", 1, **keys)]
    run(*arguments, "SOLVER.AMP.ENABLED", True)
    assert types_of_convolutions == IN_BFLOAT16
    assert "Mixed precision on the CPU uses float32 and bfloat16" in (tmp_path / "run" / "log.txt").read_text()
    state = load(tmp_path / "run" / "model_final.pth")
    assert {value.dtype for value in state["model"].values() if value.is_floating_point()} == {torch.float32}
    types_of_convolutions.clear()
    run("--resume", *arguments, "SOLVER.MAX_ITER", 2)
    assert types_of_convolutions == {(True, torch.float32), (False, torch.float32)}
    curve = losses(tmp_path / "run" / "metrics.json")
    assert curve and all(math.isfinite(loss) for loss in curve.values())


@pytest.mark.slow
@no_gpu_only
def test_a_lazy_config_trains_in_bfloat16_on_the_cpu(coco_mini, tmp_path, types_of_convolutions):
    config = tmp_path / "lazy.py"
    config.write_text(LAZY)
    keys = [f"train.output_dir={tmp_path / 'run'}", "train.max_iter=1", "train.amp.enabled=True"]
    train.main(parse("--config-file", config, *coco_mini, *keys, "model.backbone.bottom_up.channels_last=True"))
    assert types_of_convolutions == IN_BFLOAT16


@pytest.mark.slow
def test_a_compiled_trunk_trains_and_goes_on_uncompiled(bccd, tmp_path):
    def graphs(iterations, *more, **keys):
        torch._dynamo.reset()
        counters.clear()
        run(*more, *bccd, *tiny(tmp_path / "run", iterations, **keys))
        return counters["stats"]["unique_graphs"]

    switches = {"MODEL.RESNETS.CHANNELS_LAST": True, "MODEL.RESNETS.COMPILE": True}
    keys = {**switches, "MODEL.RESNETS.COMPILE_BACKEND": "eager", "TEST.PRECISE_BN.ENABLED": False}
    # Images of many sizes: two graphs of training, one of evaluation.
    assert 2 <= graphs(3, **keys) <= 4
    assert graphs(4, "--resume") == 0
    state = load(tmp_path / "run" / "model_final.pth")["model"]
    assert not [name for name in state if "_orig_mod" in name]


def test_the_seed_of_a_config_comes_before_the_seed_that_was_drawn(bccd, tmp_path):
    def seed_of(seed, *options):
        return run_setup.resolve_seed(seed, str(tmp_path / "run"), parse(*options))

    arguments = ["--config-file", CONFIG, *bccd, *tiny(tmp_path / "run", 1), "SEED", -1]
    drawn = train.YamlRun(parse(*arguments)).seed
    assert train.YamlRun(parse("--resume", *arguments)).seed == seed_of(-1, "--resume") == drawn >= 0
    assert seed_of(5, "--resume") == 5
    assert seed_of(-1, "--eval-only") != drawn
    assert seed_of(-1, "--resume") == drawn, "an evaluation in between changes nothing"
    assert seed_of(-1) != drawn


def test_a_fresh_run_moves_an_earlier_one_out_of_its_way(bccd, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    left = {"model_0000001.pth", "metrics.json", "last_checkpoint", "config.yaml", "log.txt"}
    for name in (*left, "mine.txt"):
        (folder / name).write_text("")
    for option in ("--resume", "--eval-only"):
        settings = {"device": "cpu", "key": "", "weights": "", "output_dir": str(folder), "seed": 0, "amp": False}
        assert run_setup.prepare(parse(option), **settings) == ("cpu", 0, [])
    train.YamlRun(parse("--config-file", CONFIG, *bccd, *tiny(folder, 1)))
    assert not (folder / "metrics.json").exists() and (folder / "mine.txt").is_file()
    (moved,) = folder.glob("before_*")
    assert {file.name for file in moved.iterdir()} == left
    assert f"{folder} contained a run, which was moved to {moved}" in (folder / "log.txt").read_text()


@pytest.fixture
def swapped(shared) -> list:
    """A dataset whose validation file has the classes of the training file under each other's ids."""
    case = shared / "cases" / "detection" / "09b_ids_swapped"
    if not case.is_dir():
        pytest.skip("the shared cases are not there")
    words = [
        [f"--{split}-json", case / f"{split}.json", f"--{split}-images", case / "images"] for split in ("train", "val")
    ]
    return [word for pair in words for word in pair]


def test_an_evaluation_matches_classes_in_another_order_by_name(swapped, tmp_path):
    """The results without names, which are compared by place, have the other classes."""
    keys = {"MODEL.WEIGHTS": tmp_path / "model.pth", "MODEL.ROI_HEADS.NUM_CLASSES": 2}
    model = train.YamlRun(parse("--config-file", CONFIG, *tiny(tmp_path / "none", 1, **keys))).build_model()
    found, names = (
        {},
        {"same": ["platelet", "cell"], "swapped": ["cell", "platelet"], "more": ["cell", "platelet", "x"]},
    )
    for case, classes in names.items():
        content = {"model": model.state_dict(), "meta": {"CLASSES": classes}}
        torch.save(content, tmp_path / "model.pth")
        evaluated = ["--eval-only", *swapped[4:], *tiny(tmp_path / case, 1, **keys)]
        if case == "more":
            lists = r"3 \(cell, platelet, x\) in the model, 2 \(platelet, cell\) in the data"
            with pytest.raises(DatasetError, match=lists):
                run(*evaluated)
            continue
        run(*evaluated)
        results = json.loads((tmp_path / case / "inference" / "coco_instances_results.json").read_text())
        found[case] = [(result["image_id"], result["category_id"]) for result in results]
        said = "in a different order; they are matched by name: 2 (cell, platelet) in the model, 2 (platelet, cell)"
        assert (said in (tmp_path / case / "log.txt").read_text()) == (case == "swapped")
    assert found["same"] and found["swapped"] == [(image, 3 - category) for image, category in found["same"]]
