"""The commands of all recipes, read by the parsers and the configs of the tools that they start."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reproduce import build_argument_parser
from reproduction.commands import Command, make_commands, settings_for
from reproduction.common import ALL, EPOCHS
from resnest_backbones.errors import ConfigError
from resnest_backbones.model_zoo import RECIPES, get_config_file
from tests.helpers import ROOT

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")

# One recipe for each set of metrics on each dataset, which decide what is run; `make smoke` runs all recipes.
KINDS = {(recipe.dataset, *recipe.metrics): recipe for recipe in RECIPES.values()}.values()
DETECTORS = [recipe.name for recipe in KINDS if recipe.framework == "detectron2"]
SEGMENTORS = [recipe.name for recipe in KINDS if recipe.framework == "mmseg"]
DETECTOR, SEGMENTOR = "mask_rcnn_resnest50_fpn_1x", "fcn_resnest101-d8_4xb4-160k_ade20k-512x512"
TWO_MACHINES = ("--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://node0:7000")


def commands(name: str, *options: object, gpus: int = 1, number: int = 0, output: object = "out") -> list[Command]:
    words = ["run", name, "--output-dir", output, "--num-gpus", gpus, *options]
    return make_commands(ALL[name], build_argument_parser().parse_args([str(word) for word in words]), number)


def tool_of(command: Command) -> tuple[list[str], Path, list[str]]:
    """The words before the tool, the tool, and its arguments."""
    place = next(number for number, word in enumerate(command.words) if word.endswith(".py"))
    return list(command.words[:place]), Path(command.words[place]), list(command.words[place + 1 :])


def parse(command: Command) -> argparse.Namespace:
    """The arguments as the tool reads them."""
    import pretrain
    import test_seg
    import train_net
    import train_seg

    tools = {"train_net": train_net, "train_seg": train_seg, "test_seg": test_seg, "pretrain": pretrain}
    _, tool, arguments = tool_of(command)
    assert tool.is_file()
    return tools[tool.stem].build_argument_parser().parse_args(arguments)


def detectron2_config(args: argparse.Namespace) -> Any:
    """The config as the tool makes it; a key that it does not have is an error."""
    from detectron2.config import get_cfg

    from resnest_backbones.detectron2 import add_resnest_config

    cfg = get_cfg()
    add_resnest_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_trains_and_evaluates_in_one_command(name):
    (command,) = commands(name, gpus=8)
    assert command.name == "train" and command.environment == {"DETECTRON2_DATASETS": "datasets"}
    args = parse(command)
    assert args.resume and not args.eval_only and args.num_gpus == 8
    assert args.config_file == get_config_file(name)
    assert args.dist_url == "auto"  # Detectron2 looks for a free port: two recipes on a machine do not meet
    cfg = detectron2_config(args)
    assert f"out/{name}/train" == cfg.OUTPUT_DIR
    assert cfg.SOLVER.IMS_PER_BATCH == 16 and cfg.SOLVER.MAX_ITER >= 12 * 7_330


@pytest.mark.parametrize("name", SEGMENTORS)
def test_a_segmentor_trains_and_is_tested_as_its_metrics_were(name):
    from mmengine.config import Config

    from resnest_backbones.mmseg.config import parse_options

    metrics, each = RECIPES[name].metrics.keys(), commands(name)
    tests = ["test"] * bool({"miou", "miou_scales_not_stated"} & metrics) + ["test_tta"] * (
        "miou_multi_scale" in metrics
    )
    assert [command.name for command in each] == ["train", *tests]
    for command in each:
        args = parse(command)
        assert args.config == get_config_file(name) and args.launcher == "none"
        assert args.work_dir == f"out/{name}/{command.name}"
        assert getattr(args, "tta", False) == (command.name == "test_tta") and getattr(args, "resume", True)
        assert getattr(args, "checkpoint", "LAST_CHECKPOINT") == "LAST_CHECKPOINT"
        cfg = Config.fromfile(args.config, import_custom_modules=False)
        cfg.merge_from_dict(parse_options(args.cfg_options))
        roots = {cfg[f"{split}_dataloader"].dataset.data_root for split in ("train", "val", "test")}
        assert len(roots) == 1 and roots.pop().startswith("datasets/")
        assert cfg.train_dataloader.batch_size == (8 if RECIPES[name].dataset == "cityscapes" else 16)


def test_a_network_trains_by_the_published_recipe_and_its_file_is_evaluated():
    (command,) = commands("resnest50", "--set", "SEED=1", "pretrain.epochs=90", "pretrain.amp=")
    args = parse(command)
    assert (args.network, args.resume, args.eval_only, args.epochs, args.amp) == ("resnest50", True, None, 90, True)
    assert (str(args.data), str(args.output_dir)) == ("datasets/imagenet", "out/resnest50/train")
    assert parse(*commands("resnest14")).epochs == EPOCHS
    (command,) = commands("resnest269", "--eval-only", "resnest269-0cc87c48.pth", gpus=8)
    launcher, _, _ = tool_of(command)
    assert command.name == "evaluate" and launcher[-3:] == ["--nproc-per-node", "8", "--standalone"]
    args = parse(command)
    assert (args.network, args.eval_only) == ("resnest269", "resnest269-0cc87c48.pth")
    assert not args.resume and str(args.output_dir) == "out/resnest269/evaluate"


# GPUs and machines


@pytest.mark.parametrize(("gpus", "machines", "share"), [(4, 1, 4), (8, 1, 2), (8, 2, 1), (1, 1, 16)])
def test_several_processes_share_the_batch_of_a_segmentor(gpus, machines, share):
    from torch.distributed.run import get_args_parser

    each = commands(SEGMENTOR, *(TWO_MACHINES if machines == 2 else ()), gpus=gpus, number=3)
    for place, command in enumerate(each):
        args = parse(command)
        assert f"train_dataloader.batch_size={share}" in args.cfg_options
        launcher, tool, arguments = tool_of(command)
        if gpus == 1:
            assert launcher == [] and args.launcher == "none"
            continue
        assert args.launcher == "pytorch"
        assert launcher[:2] == ["-m", "torch.distributed.run"]
        found = get_args_parser().parse_args([*launcher[2:], str(tool), *arguments])
        assert (found.nproc_per_node, found.nnodes) == (str(gpus), "2" if machines == 2 else "1:1")
        assert found.standalone == (machines == 1)
        if machines == 2:  # each command meets at a port of its own
            expected = (1, "node0", 7000 + 4 * 3 + place)
            assert (found.node_rank, found.master_addr, found.master_port) == expected


def test_detectron2_starts_the_processes_of_several_machines_itself():
    (command,) = commands(DETECTOR, *TWO_MACHINES, gpus=8, number=2)
    args = parse(command)
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (8, 2, 1)
    assert args.dist_url == "tcp://node0:7008"


@pytest.mark.parametrize("url", ["node0:7000", "tcp://node0", "tcp://node0:port", None])
@pytest.mark.parametrize("name", [DETECTOR, SEGMENTOR])
def test_machines_need_an_address(name, url):
    with pytest.raises(ConfigError, match="--dist-url must be tcp://HOST:PORT"):
        commands(name, "--num-machines", "2", *(["--dist-url", url] if url else []))


def test_a_batch_that_cannot_be_shared_evenly_is_refused_unless_the_user_says_how():
    with pytest.raises(ConfigError, match="has a batch of 16 images, which 3 processes cannot share evenly"):
        commands(SEGMENTOR, gpus=3)
    command, *_ = commands(SEGMENTOR, "--set", "train_dataloader.batch_size=5", gpus=3)
    assert "train_dataloader.batch_size=5" in parse(command).cfg_options


# Other options


def test_evaluation_alone_takes_the_file():
    (command,) = commands(DETECTOR, "--eval-only", "model.pth", "--set", "MODEL.WEIGHTS=")
    args = parse(command)
    assert command.name == "evaluate" and args.eval_only and not args.resume
    assert detectron2_config(args).MODEL.WEIGHTS == "model.pth"
    each = commands(SEGMENTOR, "--eval-only", "model.pth", gpus=3)  # nothing is trained: any number will do
    assert [command.name for command in each] == ["test", "test_tta"]
    assert {parse(command).checkpoint for command in each} == {"model.pth"}


def test_settings_go_to_the_framework_that_has_them():
    settings = ("SOLVER.MAX_ITER=7", "train_cfg.max_iters=8", "SEED=1")
    assert settings_for(RECIPES[SEGMENTOR], settings) == ["train_cfg.max_iters=8"]
    cfg = detectron2_config(parse(commands(DETECTOR, "--set", *settings)[0]))
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED) == (7, 1)
    assert "train_cfg.max_iters=8" in parse(commands(SEGMENTOR, "--set", *settings)[0]).cfg_options


def test_the_last_checkpoint_is_found_in_a_folder_that_was_moved(tmp_path):
    test = commands(SEGMENTOR, output=tmp_path)[1]
    with pytest.raises(ConfigError, match="last_checkpoint does not exist: the training left no checkpoint"):
        test.resolved()
    train = tmp_path / SEGMENTOR / "train"
    train.mkdir(parents=True)
    (train / "last_checkpoint").write_text("/elsewhere/train/iter_160000.pth")
    assert str(train / "iter_160000.pth") in test.resolved()


def test_data_roots_are_quoted_and_those_that_mmsegmentation_would_split_are_refused():
    (command,) = commands(DETECTOR, "--data-root", "my data")
    assert command.as_typed().startswith("DETECTRON2_DATASETS='my data' python ")
    with pytest.raises(ConfigError, match="--data-root must not have commas or brackets"):
        commands(SEGMENTOR, "--data-root", "a,b")


def test_the_slurm_script_tells_each_node_its_rank_and_where_to_meet(tmp_path):
    programs = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'shift; for rank in 0 1; do SLURM_NODEID=$rank "$@"; done',  # one task per node
        "python": 'printf "%s|" "$@"; echo',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "20007", "SLURM_JOB_NUM_NODES": "2"}
    variables = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python"}
    command = ["bash", str(ROOT / "tools" / "reproduce.sbatch"), DETECTOR, "--data-root", "my data"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        f"tools/reproduce.py|run|--num-machines|2|--machine-rank|{rank}|--dist-url|tcp://node7:20007|{DETECTOR}|"
        "--data-root|my data|"
        for rank in (0, 1)
    ]
    words = done.stdout.splitlines()[1].split("|")[1:-1]
    args = build_argument_parser().parse_args(words)
    assert args.recipes == [DETECTOR] and args.machine_rank == 1
