"""Which weights are taken of the files that trainings leave, whatever they stand behind or lie under."""

import argparse
import collections
import itertools
import logging
import pickle
import types
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convert_checkpoint import run as run_tool
from resnest_backbones import ResNeSt, ResNeStSpec, build, convert_state_dict, load_checkpoint
from resnest_backbones.checkpoint import extract_state_dict, read_checkpoint
from resnest_backbones.checkpoint.contents import split_part
from resnest_backbones.errors import CheckpointError
from tests.helpers import Payload

TINY = ResNeStSpec("tiny", (2, 1, 1, 1), stem_width=8, bottleneck_width=8)
LAYOUTS = ("core", "official", "mmseg", "detectron2")


def tiny_net(**arguments) -> ResNeSt:
    return ResNeSt(TINY, **{"out_features": ("res3",), **arguments})


@pytest.fixture(scope="module")
def source(fill_randomly) -> ResNeSt:
    return fill_randomly(tiny_net()).float()


@pytest.fixture(scope="module")
def timm_state(source) -> dict[str, Tensor]:
    return convert_state_dict(source.state_dict(), "timm")


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other numbers under the same names."""
    return {key: value + 1 for key, value in state.items()}


def load(content: object, folder: Path, part: str = "", **arguments) -> ResNeSt:
    torch.save(content, folder / "file.pth")
    net = tiny_net(**arguments)
    load_checkpoint(net, f"{folder / 'file.pth'}{part}")
    return net


def is_filled_from(net: nn.Module, state: dict[str, Tensor]) -> bool:
    core = convert_state_dict(state)
    own = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    return all(torch.equal(value, core[key]) for key, value in own.items())


WORDS = ("_orig_mod.", "module.", "model.", "net.", "ema.", "encoder.", "backbone.")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_stands_before_all_names_does_not_matter(layout, source, tmp_path):
    state = convert_state_dict(source.state_dict(), layout)
    prefixes = [*WORDS, *map("".join, itertools.permutations(WORDS[:3])), "module.module.", "learner.net._orig_mod."]
    prefixes += ["model.encoder.", "backbone.module._orig_mod.", "module.backbone.", "_fsdp_wrapped_module."]
    for prefix in prefixes:
        converted = convert_state_dict(behind(prefix, state), layout)
        assert {key.removeprefix("backbone."): value for key, value in converted.items()} == state, prefix
    assert is_filled_from(load(behind("module._orig_mod.model.", state), tmp_path), state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_that_a_wrapper_inserts_before_a_part_do_not_matter(layout, source):
    state = convert_state_dict(source.state_dict(), layout)
    inserted = {
        key.replace("layer1.", "layer1._orig_mod.").replace("res3.", "res3._checkpoint_wrapped_module."): value
        for key, value in behind("module.", state).items()
    }
    assert convert_state_dict(inserted, layout).keys() == state.keys()


def test_what_pytorchs_own_wrappers_save_is_read(source, tmp_path):
    for wrapped in (AveragedModel(source), nn.DataParallel(source), torch.compile(source, backend="eager")):
        assert is_filled_from(load({"model": wrapped.state_dict()}, tmp_path), source.state_dict()), type(wrapped)
    nested = AveragedModel(nn.DataParallel(torch.compile(source, backend="eager"))).state_dict()
    assert "n_averaged" in nested
    assert is_filled_from(load(nested, tmp_path), source.state_dict())


def test_heads_beside_an_encoder_are_left_out_and_counted(timm_state, tmp_path, caplog):
    decoder = {"decoder.blocks.0.weight": torch.ones(1), "segmentation_head.0.weight": torch.ones(1)}
    for outer in ("", "model.", "module._orig_mod."):
        state = behind(outer, {**behind("encoder.", timm_state), **decoder})
        with caplog.at_level(logging.INFO, "resnest_backbones.checkpoint"):
            assert is_filled_from(load(state, tmp_path), timm_state)
        assert "2 tensors are not in the model: " in caplog.text
    with_own_head = {**timm_state, "classifier.1.weight": torch.ones(1)}
    assert is_filled_from(load(with_own_head, tmp_path), timm_state)


def test_heads_within_a_wrapped_detector_or_segmentor_stay(source):
    trunk = source.state_dict()
    detector = {**behind("backbone.bottom_up.", trunk), "roi_heads.box_predictor.cls_score.weight": torch.ones(2)}
    segmentor = {
        **behind("backbone.", convert_state_dict(trunk, "mmseg")),
        "decode_head.conv_seg.weight": torch.ones(2),
    }
    for state, target in ((detector, "detectron2"), (segmentor, "mmseg"), (segmentor, "segmentor")):
        wanted = convert_state_dict(state, target)
        assert any("head" in key for key in wanted)
        assert convert_state_dict(behind("model._orig_mod.", state), target).keys() == wanted.keys()
    beside = {
        **behind("backbone.", convert_state_dict(trunk, "official")),
        "decode_head.conv_seg.weight": torch.ones(2),
    }
    assert "decode_head.conv_seg.weight" in convert_state_dict(beside, "segmentor")


CONTAINERS = [("state_dict",), ("net",), ("ema",), ("model", "state_dict"), ("checkpoint", "weights"), ("a", "b", "c")]


@pytest.mark.parametrize("path", CONTAINERS, ids=".".join)
def test_a_state_dict_is_found_wherever_it_lies(path, timm_state, tmp_path, caplog):
    content: object = timm_state
    for key in reversed(path):
        content = {key: content, "epoch": 3, "name": "x"}
    content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(3)}}, "average": dict(timm_state)}
    assert is_filled_from(load(content, tmp_path), timm_state)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def of_timm(state: dict[str, Tensor]) -> dict:
    args = argparse.Namespace(
        lr=0.1, model="resnest50d", data_dir=Path("/data"), mean=(0.5,), inner=argparse.Namespace(a=1)
    )
    args.best, args.resize = np.float64(76.5), PureWindowsPath("c:/x")
    ema = averaged(state)
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    content = {"epoch": 9, "arch": "resnest50d", "version": 2, "state_dict": state, "state_dict_ema": ema}
    return {**content, "args": args, "optimizer": optimizer, "amp_scaler": {"scale": 2.0}, "metric": 76.5}


def of_torchvision(state: dict[str, Tensor]) -> dict:
    args = argparse.Namespace(device="cuda", data_path="/data", model_ema=True, weights=None, dev=torch.device("cpu"))
    ema = {"n_averaged": torch.tensor(7), **behind("module.", averaged(state))}
    schedule = {"_schedulers": [{"T_max": 3}], "_milestones": [5], "last_epoch": 2}
    content = {"model": state, "optimizer": {"state": {}, "param_groups": []}, "lr_scheduler": schedule}
    return {**content, "epoch": 2, "args": args, "scaler": {}, "model_ema": ema}


def of_lightning(state: dict[str, Tensor]) -> dict:
    both = {**behind("model.", state), **behind("ema_model.module.", averaged(state)), "loss.weight": torch.ones(5)}
    callbacks = {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "/x"}}
    loops = {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}}
    content = {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.4.0", "state_dict": both, "loops": loops}
    hparams = {"lr": 0.1, "cfg": types.SimpleNamespace(depth=50), "log": collections.defaultdict(list, loss=[1.0])}
    return {**content, "callbacks": callbacks, "optimizer_states": [{"state": {}}], "hyper_parameters": hparams}


TRAININGS = [
    (of_timm, "state_dict", "state_dict_ema"),
    (of_torchvision, "model", "model_ema"),
    (of_lightning, "state_dict.model", "state_dict.ema_model"),
    (lambda state: {"ema": {"module": averaged(state)}, "net": state}, "net", "ema.module"),
    (lambda state: {**behind("teacher.", averaged(state)), **behind("student.", state)}, "student", "teacher"),
    (lambda state: {"state_dict": {"swa": averaged(state), "plain": state}}, "state_dict.plain", "state_dict.swa"),
]


@pytest.mark.parametrize(("made", "name", "other"), TRAININGS)
def test_of_weights_and_their_average_the_weights_are_taken_and_a_line_offers_the_others(
    made, name, other, timm_state, tmp_path, caplog
):
    content, file = made(timm_state), tmp_path / "file.pth"
    assert is_filled_from(load(content, tmp_path), timm_state)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(f"{file} has several sets of weights (")
    assert line.endswith(f": using {name}; for others, pass {file}#{other}")
    caplog.clear()
    word = next(word for word in ("ema", "swa", "teacher") if word in other)
    for part in {other, word}:
        assert is_filled_from(load(content, tmp_path, f"#{part}"), averaged(timm_state)), part
    assert is_filled_from(load(content, tmp_path, f"#{name}"), timm_state)
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []
    with pytest.raises(CheckpointError, match=rf"{file}: #nothing must name one of .*: .*{other}"):
        load(content, tmp_path, "#nothing")


@pytest.mark.parametrize("make", [of_timm, of_torchvision, of_lightning])
def test_settings_of_a_training_become_dicts(make, timm_state, tmp_path):
    torch.save(make(timm_state), tmp_path / "file.ckpt")
    read = read_checkpoint(tmp_path / "file.ckpt")
    if make is of_timm:
        args = {"lr": 0.1, "model": "resnest50d", "data_dir": "/data", "mean": (0.5,), "inner": {"a": 1}}
        assert read["args"] == {**args, "best": 76.5, "resize": "c:\\x"}
    elif make is of_torchvision:
        assert read["args"]["model_ema"] is True and read["args"]["dev"] == torch.device("cpu")
    else:
        assert read["hyper_parameters"] == {"lr": 0.1, "cfg": {"depth": 50}, "log": {"loss": [1.0]}}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_code_among_settings_is_not_run(suffix, timm_state, tmp_path):
    file, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    content = {"state_dict": timm_state, "args": argparse.Namespace(data=Payload(trace))}
    torch.save(content, file) if suffix == ".pth" else file.write_bytes(pickle.dumps({"args": content["args"]}))
    with pytest.raises(CheckpointError, match=rf"evil\{suffix} contains more than tensors .*: posix\.system"):
        read_checkpoint(file)
    assert not trace.exists()


def test_the_converter_reads_them_too(timm_state, tmp_path, caplog):
    torch.save(of_timm(behind("_orig_mod.module.", timm_state)), tmp_path / "in.pth.tar")
    for part, wanted in (("", timm_state), ("#ema", averaged(timm_state))):
        out = tmp_path / f"out{part}.pth"
        run_tool([f"{tmp_path / 'in.pth.tar'}{part}", str(out), "--to", "timm"])
        made = read_checkpoint(out)
        assert made.keys() == wanted.keys() and all(torch.equal(made[key], wanted[key]) for key in made)
        assert ("for others, pass " in caplog.text) == (not part)
        caplog.clear()


def test_a_file_whose_name_has_the_mark_is_that_file(timm_state, tmp_path):
    file = tmp_path / "run#ema.pth"
    torch.save(timm_state, file)
    assert split_part(str(file)) == (str(file), "")
    assert split_part(f"{file}#model") == (str(file), "model")
    load_checkpoint(tiny_net(), file)
    assert split_part("https://host/a.pth#ema") == ("https://host/a.pth", "ema")
    with pytest.raises(CheckpointError, match=r"run#2\.pth does not exist"):
        load_checkpoint(tiny_net(), tmp_path / "run#2.pth")


def test_weights_of_another_model_are_found_under_their_usual_names():
    state = {"weight": torch.ones(1)}
    for content in (state, {"model": state, "epoch": 1}, {"net": {"state_dict": state}}, {"state_dict_ema": state}):
        assert extract_state_dict(content) == state
    assert extract_state_dict({"weight": np.float32(1)}) == state


def test_half_an_average_is_said_to_be_incomplete(timm_state, tmp_path):
    parameters = {key: value for key, value in averaged(timm_state).items() if "running" not in key}
    content = {"model": timm_state, "ema": parameters}
    assert is_filled_from(load(content, tmp_path), timm_state)
    with pytest.raises(CheckpointError, match=r"file\.pth .*missing \(stem\.conv1_1\.norm\.running_mean"):
        load(content, tmp_path, "#ema")


def test_a_network_with_more_or_fewer_blocks_is_named(tmp_path):
    names = ("resnest14", "resnest26", "resnest101")
    with torch.device("meta"):
        nets = {name: build(name, out_features=("res2", "res3")) for name in names}
    for one, other in itertools.permutations(names, 2):
        state = {key: torch.zeros(()).expand(value.shape) for key, value in nets[one].state_dict().items()}
        torch.save(behind("module.", state), tmp_path / "file.pth")
        with pytest.raises(CheckpointError, match=f"the file contains {one}.*, the model is {other}.*; "):
            load_checkpoint(nets[other], tmp_path / "file.pth")
