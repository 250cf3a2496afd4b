"""``tools/train_net.py`` on real images: train, evaluate, be killed and go on, on whatever machine this is."""

import argparse
import contextlib
import importlib.util
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

from detectron2.data import DatasetCatalog, MetadataCatalog
from torch._dynamo.utils import counters

import train_net
from resnest_backbones import build, model_zoo
from resnest_backbones.commands import train_net as command
from resnest_backbones.detectron2.engine import run_setup, train
from resnest_backbones.detectron2.engine.data import build_evaluator
from resnest_backbones.detectron2.options import load_yaml_config
from resnest_backbones.errors import ConfigError, DatasetError
from resnest_backbones.train import Training, train_detector
from tests.helpers import ROOT, TINY_DETECTOR, run_tool, subset_of_coco

CONFIG = ROOT / "configs" / "detectron2" / "coco_detection" / "faster_rcnn_resnest50_fpn_1x.yaml"


def custom_data(root: Path, folder: Path, year: str = "", images: str = "") -> list:
    """Options for six training and three validation images."""
    words = []
    for split, count in (("train", 6), ("val", 3)):
        json_file = root / "annotations" / f"instances_{split}{year}.json"
        words += [f"--{split}-json", subset_of_coco(json_file, folder / f"{split}.json", count)]
        words += [f"--{split}-images", root / (images or f"{split}{year}")]
    return words


@pytest.fixture(scope="module")
def bccd(shared, tmp_path_factory) -> list:
    """Of the blood-cell set (boxes)."""
    return custom_data(shared / "data" / "bccd", tmp_path_factory.mktemp("bccd"), images="images")


@pytest.fixture(scope="module")
def coco_mini(shared, tmp_path_factory) -> list:
    """Of COCO (boxes and masks, 80 classes)."""
    return custom_data(shared / "data" / "coco_mini", tmp_path_factory.mktemp("coco"), year="2017")


def tiny(output: Path, iterations: int, **keys: object) -> list:
    extra = [str(word) for pair in keys.items() for word in pair]
    return [*TINY_DETECTOR, "OUTPUT_DIR", output, "SOLVER.MAX_ITER", iterations, "SEED", 3, *extra]


def parse(*arguments: object) -> argparse.Namespace:
    return train_net.build_argument_parser().parse_args(list(map(str, arguments)))


def run(*arguments: object) -> dict:
    """Train or evaluate as the tool does, in this process."""
    return train.main(parse("--config-file", CONFIG, *arguments))


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
    assert len(classes) == 80 and classes[0] == "person" and "have other names" not in log
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
    assert f"{folder} held a run: moved it to {moved}" in (folder / "log.txt").read_text()


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
        said = "another order in the data, and are matched by name: 2 (cell, platelet) in the model, 2 (platelet, cell)"
        assert (said in (tmp_path / case / "log.txt").read_text()) == (case == "swapped")
    assert found["same"] and found["swapped"] == [(image, 3 - category) for image, category in found["same"]]


def test_resuming_with_other_classes_ends_the_tool_with_one_line(swapped, trained, tmp_path):
    folder = as_killed_after("model_0000000.pth", trained.folder, tmp_path / "run")
    train_twice = [*swapped[:4], "--val-json", swapped[1], "--val-images", swapped[3]]
    with pytest.raises(SystemExit) as raised:
        words = ["--config-file", CONFIG, "--resume", *train_twice, *tiny(folder, 2)]
        train_net.run(list(map(str, words)))
    line = str(raised.value.code)
    assert f"error: --resume goes on with {folder / 'model_0000000.pth'}, whose classes are not those" in line
    assert "80 (person, bicycle, " in line and "2 (cell, platelet) in the data" in line and "\n" not in line


def test_a_training_from_another_networks_file_ends_before_it_begins(swapped, tmp_path):
    with torch.device("meta"):
        state = build("resnest26", num_classes=7).state_dict()
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in state.items()}, tmp_path / "other.pth")
    train_twice = [*swapped[:4], "--val-json", swapped[1], "--val-images", swapped[3]]
    with pytest.raises(SystemExit) as raised:
        keys = {"MODEL.WEIGHTS": tmp_path / "other.pth"}
        train_net.run(list(map(str, ["--config-file", CONFIG, *train_twice, *tiny(tmp_path / "run", 2, **keys)])))
    assert f"error: {tmp_path / 'other.pth'} does not fit the model's ResNeSt: " in str(raised.value.code)
    assert "the file holds resnest26, the model is resnest14; 127 of 127 tensors match" in str(raised.value.code)
    assert not (tmp_path / "run" / "metrics.json").exists()


EVALUATORS = {
    "coco": "COCOEvaluator",
    "coco_panoptic_seg": "DatasetEvaluators",
    "lvis": "LVISEvaluator",
    "cityscapes_instance": "CityscapesInstanceEvaluator",
    "cityscapes_sem_seg": "CityscapesSemSegEvaluator",
    "pascal_voc": "PascalVOCDetectionEvaluator",
    "sem_seg": "SemSegEvaluator",
}


@pytest.mark.parametrize("kind", EVALUATORS)
def test_each_kind_of_dataset_gets_its_evaluator(kind, shared, tmp_path):
    name = f"some_{kind}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: [{"file_name": "a", "sem_seg_file_name": "b"}])
        root = shared / "data" / "coco_mini" / "annotations"
        MetadataCatalog.get(name).set(
            evaluator_type=kind,
            json_file=str(root / "instances_val2017.json"),
            panoptic_json=str(root / "instances_val2017.json"),
            stuff_classes=["sky"],
            thing_classes=["cat"],
            thing_dataset_id_to_contiguous_id={1: 0},
            stuff_dataset_id_to_contiguous_id={1: 0},
            ignore_label=255,
            dirname="datasets/VOC2007",
            split="test",
            year=2007,
        )
    try:
        assert type(build_evaluator(name, str(tmp_path))).__name__ == EVALUATORS[kind]
    except ModuleNotFoundError as missing:
        pytest.skip(f"{kind} needs {missing.name}, which is not installed here")


@pytest.mark.parametrize(
    ("name", "package"), [("lvis_v1_val", "lvis"), ("coco_2017_val_panoptic_separated", "panopticapi")]
)
def test_an_evaluator_without_its_package_is_missed_before_the_training(name, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else object())
    arguments = ["--config-file", str(CONFIG), "DATASETS.TEST", f"('{name}',)"]
    with pytest.raises(ConfigError, match=f"DATASETS.TEST has {name}, whose evaluation needs the package {package}"):
        train.YamlRun(parse(*arguments))


@pytest.mark.parametrize(
    "name", ["mask_cascade_rcnn_resnest200_fpn_3x_all_tricks", "mask_rcnn_resnest50_fpn_100ep_lsj"]
)
def test_what_crops_masks_is_missed_before_the_training(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == "shapely" else object())
    arguments = ["--config-file", model_zoo.get_config_file(name)]
    with pytest.raises(ConfigError, match="crops training images with masks, which needs the package shapely"):
        train.main(parse(*arguments))


def test_a_dataset_of_no_known_kind_is_refused():
    with pytest.raises(ConfigError, match="of_no_kind needs an evaluator_type of sem_seg, coco, .*got None"):
        build_evaluator("of_no_kind", ".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--config-file must be given"),
        (["--config-file", CONFIG, "--num-machines", 2], "--num-machines above 1 needs --dist-url tcp://HOST:PORT"),
        (["--config-file", CONFIG, "--dist-timeout", 0], "--dist-timeout must be above 0, got 0"),
        (["--config-file", CONFIG, "--val-json", "a"], "--train-json, --train-images, --val-images are missing"),
        (["--config-file", CONFIG, "--eval-only", "--val-json", "a"], "--val-images are missing"),
    ],
)
def test_options_that_do_not_hold_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train_net.check_arguments(parse(*options))


def test_a_mistyped_config_is_answered_with_the_nearest_in_one_line():
    with pytest.raises(SystemExit, match=r"error: name must be .*; did you mean faster_rcnn_resnest50_fpn_1x or"):
        train_net.run(["--config-file", "configs/faster_rcnn_resnest50_fpn_x1.yaml"])


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mistake_ends_the_tool_with_one_line(processes, bccd, tmp_path):
    none = tmp_path / "none.json"
    command = ["--num-gpus", processes, "--dist-url", "auto", "--config-file", CONFIG, *bccd[:1], none, *bccd[2:]]
    with pytest.raises(SystemExit) as raised:
        train_net.run(list(map(str, [*command, *tiny(tmp_path / "run", 1)])))
    assert str(raised.value.code).endswith(f": error: {none} cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.RESNETS.DEPHT", 50], "no key 'MODEL.RESNETS.DEPHT'; did you mean MODEL.RESNETS.DEPTH"),
        (["SOLVER.IMS_PER_BATCH", 1, "MODEL.RESNETS.NORM", "BN"], "PER_BATCH must be 2 or more per process .*, got 1"),
        (["SOLVER.IMS_PER_BATCH", 1], "IMS_PER_BATCH must be 2 or more in all with MODEL.RESNETS.NORM SyncBN, got 1"),
        (["MODEL.RESNETS.DEPTH", 18], "MODEL.RESNETS.DEPTH must be one of 14, .*, got 18"),
    ],
)
def test_a_bad_key_is_a_config_error(keys, message, bccd, tmp_path):
    arguments = ["--config-file", CONFIG, *bccd, *tiny(tmp_path / "run", 1), *keys]
    with pytest.raises(ConfigError, match=message):
        train.YamlRun(parse(*arguments)).build_model()


def test_single_images_are_fine_where_nothing_is_normalised_over_the_batch(bccd, tmp_path):
    keys = {"SOLVER.IMS_PER_BATCH": 1, "MODEL.RESNETS.NORM": "FrozenBN", "MODEL.FPN.NORM": "", "DATASETS.TEST": "()"}
    assert run(*bccd, *tiny(tmp_path, 1, **keys)) == {}
    assert (tmp_path / "model_final.pth").is_file()


def test_masks_are_asked_for_where_the_model_has_them_in_the_end(bccd, tmp_path):
    def setup(*keys):
        arguments = ["--config-file", CONFIG, *bccd, *tiny(tmp_path / "run", 1), *keys]
        return train.YamlRun(parse(*arguments)).cfg

    with pytest.raises(DatasetError, match=r"MODEL\.MASK_ON needs masks, and .*train\.json have no segmentation"):
        setup("MODEL.MASK_ON", True)
    with pytest.raises(DatasetError, match="PanopticFPN needs other annotations too"):
        setup("MODEL.META_ARCHITECTURE", "PanopticFPN")
    cfg = setup()
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert setup("MODEL.ROI_HEADS.NUM_CLASSES", 7).MODEL.ROI_HEADS.NUM_CLASSES == 7
