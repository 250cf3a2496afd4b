"""The commands of all rows, read by the parsers and the configs of the tools that they start."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reproduction.launch import Launch
from reproduction.smoke import smoke_settings
from reproduction.steps import (
    LAST_CHECKPOINT,
    Plan,
    Step,
    StepError,
    check_settings,
    make_steps,
    split_settings,
)
from resnest_backbones.model_zoo import RECIPES, get_config_file

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")

DETECTORS = [name for name, row in RECIPES.items() if row.framework == "detectron2"]
SEGMENTORS = [name for name, row in RECIPES.items() if row.framework == "mmseg"]
DETECTOR, SEGMENTOR = RECIPES["mask_rcnn_resnest50_fpn_1x"], RECIPES["fcn_resnest101-d8_4xb4-160k_ade20k-512x512"]


def plan_of(name: str, launch: Launch, *, smoke: bool = False) -> Plan:
    settings = tuple(smoke_settings(RECIPES[name], 2)) if smoke else ()
    return Plan(Path("out"), Path("datasets"), launch, settings)


def parse(step: Step) -> argparse.Namespace:
    """The arguments as the tool reads them."""
    from resnest_backbones.detectron2.engine.train import build_argument_parser
    from resnest_backbones.mmseg.engine.train import build_test_parser, build_train_parser

    parsers = {"train_net": build_argument_parser, "train_seg": build_train_parser, "test_seg": build_test_parser}
    return parsers[step.tool.stem]().parse_args(step.arguments)


def detectron2_config(args: argparse.Namespace) -> Any:
    """The config as the tool makes it; a key that it does not have is an error."""
    from detectron2.config import get_cfg

    from resnest_backbones.detectron2 import add_resnest_config

    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def has(settings: Any, path: Sequence[str]) -> bool:
    """Whether a config has a setting, or an option that ``BaseSegDataset`` and ``PaperTTAModel`` have by default."""
    for key in path:
        if isinstance(settings, (list, tuple)) and key.isdecimal() and int(key) < len(settings):
            settings = settings[int(key)]
        elif isinstance(settings, dict) and key in settings:
            settings = settings[key]
        else:
            return key in ("indices", "base_size", "crop_size", "stride", "end")
    return True


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_trains_and_evaluates_in_one_command(name, smoke):
    (step,) = make_steps(RECIPES[name], plan_of(name, Launch(8), smoke=smoke))
    assert step.name == "train" and step.tool.is_file()
    assert step.environment == {"DETECTRON2_DATASETS": "datasets"}
    args = parse(step)
    assert args.resume and not args.eval_only and args.num_gpus == 8
    assert args.config_file == get_config_file(name)
    cfg = detectron2_config(args)
    solver = cfg.SOLVER
    assert f"out/{name}/train" == cfg.OUTPUT_DIR
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER < 90_000) == ((2, True) if smoke else (16, False))


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", SEGMENTORS)
def test_a_segmentor_trains_and_is_tested_as_its_figures_were(name, smoke):
    from mmengine.config import Config

    row = RECIPES[name]
    steps = make_steps(row, plan_of(name, Launch(), smoke=smoke))
    names = [step.name for step in steps]
    assert names[0] == "train"
    assert ("test" in names) == bool({"miou", "miou_scales_not_stated"} & row.metrics.keys())
    assert ("test_tta" in names) == ("miou_multi_scale" in row.metrics)
    for step in steps:
        args = parse(step)
        assert step.tool.is_file() and args.config == get_config_file(name) and args.launcher == "none"
        assert args.work_dir == f"out/{name}/{step.name}"
        assert getattr(args, "tta", False) == (step.name == "test_tta")
        assert getattr(args, "resume", True)
        assert getattr(args, "checkpoint", LAST_CHECKPOINT) == LAST_CHECKPOINT
        cfg = Config.fromfile(args.config, import_custom_modules=False)
        unknown = [path for key in args.cfg_options for path in [key.split(".")] if not has(cfg.to_dict(), path)]
        assert not unknown
        cfg.merge_from_dict(args.cfg_options)
        roots = {cfg[f"{split}_dataloader"].dataset.data_root for split in ("train", "val", "test")}
        assert len(roots) == 1 and roots.pop().startswith("datasets/")
        published_batch = 8 if row.dataset == "cityscapes" else 16
        assert cfg.train_dataloader.batch_size == (2 if smoke else published_batch)


def test_smoke_settings_shrink_every_size_of_a_segmentor():
    from mmengine.config import Config

    for name in (SEGMENTOR.name, "deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480"):
        (args, *_) = map(parse, make_steps(RECIPES[name], plan_of(name, Launch(), smoke=True)))
        cfg = Config.fromfile(args.config, import_custom_modules=False)
        cfg.merge_from_dict(args.cfg_options)
        assert max(cfg.model.data_preprocessor.size) <= 64
        sizes = {transform.type: transform for transform in cfg.train_dataloader.dataset.pipeline}
        assert max(sizes["RandomCrop"].crop_size) <= 64
        assert cfg.model.backbone.init_cfg is None


@pytest.mark.parametrize(("processes", "machines", "share"), [(4, 1, 4), (8, 1, 2), (8, 2, 1), (1, 1, 16)])
def test_several_processes_share_the_batch_of_a_segmentor(processes, machines, share):
    launch = Launch(processes, machines, 0, *(("node0", 7000) if machines > 1 else ()))
    steps = make_steps(SEGMENTOR, plan_of(SEGMENTOR.name, launch), number=3)
    for place, step in enumerate(steps):
        args = parse(step)
        assert args.cfg_options["train_dataloader.batch_size"] == share
        if processes == 1:
            assert step.launcher == () and args.launcher == "none"
            continue
        assert args.launcher == "pytorch"
        assert step.launcher[:4] == ("-m", "torch.distributed.run", "--nproc-per-node", str(processes))
        if machines == 1:
            assert step.launcher[4:] == ("--standalone",)
        else:
            port = str(7000 + 4 * 3 + place)  # each command meets at a port of its own
            rest = ("--nnodes", "2", "--node-rank", "0", "--master-addr", "node0", "--master-port", port)
            assert step.launcher[4:] == rest


def test_torchrun_knows_the_options_that_start_it():
    from torch.distributed.run import get_args_parser

    for launch in (Launch(2), Launch(2, 2, 1, "node0", 7000)):
        step = make_steps(SEGMENTOR, plan_of(SEGMENTOR.name, launch))[0]
        args = get_args_parser().parse_args([*step.launcher[2:], str(step.tool), *step.arguments])
        assert args.nproc_per_node == "2" and args.training_script == str(step.tool)


def test_detectron2_starts_the_processes_of_several_machines_itself():
    launch = Launch(8, 2, 1, "node0", 7000)
    (step,) = make_steps(DETECTOR, plan_of(DETECTOR.name, launch), number=2)
    args = parse(step)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (8, 2, 1)
    assert args.dist_url == "tcp://node0:7008"


def test_two_rows_on_one_machine_do_not_meet_at_a_port():
    (step,) = make_steps(DETECTOR, plan_of(DETECTOR.name, Launch(4)))
    assert parse(step).dist_url == "auto"  # Detectron2 looks for a free port then
    (segmentor, *_) = make_steps(SEGMENTOR, plan_of(SEGMENTOR.name, Launch(4)))
    assert "--standalone" in segmentor.launcher


def test_evaluation_alone_takes_the_file():
    plan = Plan(Path("out"), Path("datasets"), settings=("MODEL.WEIGHTS=",), eval_only=Path("model.pth"))
    (step,) = make_steps(DETECTOR, plan)
    args = parse(step)
    assert step.name == "evaluate" and args.eval_only and not args.resume
    assert detectron2_config(args).MODEL.WEIGHTS == "model.pth"
    steps = make_steps(SEGMENTOR, plan)
    assert [step.name for step in steps] == ["test", "test_tta"]
    assert {parse(step).checkpoint for step in steps} == {"model.pth"}


# Settings


def test_settings_go_to_the_framework_that_has_them():
    settings = ("SOLVER.MAX_ITER=7", "train_cfg.max_iters=8", "SEED=1")
    assert split_settings(settings, "mmseg") == [("train_cfg.max_iters", "8")]
    plan = Plan(Path("out"), Path("datasets"), settings=settings)
    cfg = detectron2_config(parse(make_steps(DETECTOR, plan)[0]))
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED) == (7, 1)
    assert parse(make_steps(SEGMENTOR, plan)[0]).cfg_options["train_cfg.max_iters"] == 8


def test_a_setting_that_no_row_takes_is_refused():
    check_settings(["SEED=1", "train_cfg.max_iters=8"], [DETECTOR, SEGMENTOR])
    with pytest.raises(
        StepError, match=r"--set train_cfg.max_iters=8 is for none of the rows, which are of detectron2"
    ):
        check_settings(["train_cfg.max_iters=8"], [DETECTOR])
    with pytest.raises(StepError, match="--set must be KEY=VALUE, got 'SEED'"):
        check_settings(["SEED"], [DETECTOR])


def test_a_batch_that_cannot_be_shared_evenly_is_refused_unless_the_user_says_how():
    with pytest.raises(StepError, match="has a batch of 16 images, which 3 processes must be able to share evenly"):
        make_steps(SEGMENTOR, plan_of(SEGMENTOR.name, Launch(3)))
    plan = Plan(Path("out"), Path("datasets"), Launch(3), ("train_dataloader.batch_size=5",))
    assert parse(make_steps(SEGMENTOR, plan)[0]).cfg_options["train_dataloader.batch_size"] == 5


def test_a_data_root_that_mmsegmentation_would_split_is_refused():
    with pytest.raises(StepError, match="--data-root must be without commas and brackets"):
        make_steps(SEGMENTOR, Plan(Path("out"), Path("a,b")))


# What is filled in when a command starts


def test_the_last_checkpoint_is_found_in_a_folder_that_was_moved(tmp_path):
    step = make_steps(SEGMENTOR, Plan(tmp_path, Path("datasets")))[1]
    with pytest.raises(StepError, match="last_checkpoint is not there: the training left no checkpoint"):
        step.command()
    train = tmp_path / SEGMENTOR.name / "train"
    train.mkdir(parents=True)
    (train / "last_checkpoint").write_text("/elsewhere/train/iter_160000.pth")
    assert str(train / "iter_160000.pth") in step.command()
    assert f"test_seg.py {get_config_file(SEGMENTOR.name)} {train / 'iter_160000.pth'}" in step.as_typed()


def test_a_package_without_its_tools_says_so(tmp_path):
    step = Step("train", tmp_path / "tools" / "train_net.py", (), tmp_path)
    with pytest.raises(StepError, match="train_net.py is not there: rows are run from a checkout"):
        step.command()


def test_commands_are_typed_with_their_environment():
    (step,) = make_steps(DETECTOR, Plan(Path("out"), Path("my data")))
    assert step.as_typed().startswith("DETECTRON2_DATASETS='my data' ")
