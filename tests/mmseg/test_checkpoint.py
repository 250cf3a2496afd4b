"""Checkpoints of MMEngine's runners, in every layout, read without running code."""

import os
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import mmseg.models  # noqa: F401  registers the segmentors
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local
from mmseg.registry import MODELS
from torch import nn

from resnest_backbones import build, convert_state_dict, load_checkpoint
from resnest_backbones.checkpoint import read_checkpoint
from resnest_backbones.errors import CheckpointError, WeightsError
from resnest_backbones.mmseg import ResNeStCheckpointHook, load_segmentor, use_safe_loading
from resnest_backbones.mmseg.checkpoint import load_from_file
from tests.helpers import publishing

NORM = {"type": "BN", "requires_grad": True}


def segmentor(name: str = "resnest14", num_classes: int = 3) -> nn.Module:
    head = {"num_classes": num_classes, "norm_cfg": NORM}
    return MODELS.build(
        {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNeStBackbone", "name": name, "output_stride": 8},
            "decode_head": {"type": "PaperASPPHead", "in_channels": 2048, "channels": 16, "in_index": 3, **head},
            "auxiliary_head": {"type": "PaperFCNHead", "in_channels": 1024, "channels": 16, "in_index": 2, **head},
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        }
    )


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(7)
    return segmentor()


def trunk_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k.removeprefix("backbone."): v for k, v in model.state_dict().items() if k.startswith("backbone.")}


def assert_same(got: nn.Module, want: nn.Module, part: str = "") -> None:
    expected = want.state_dict()
    for name, value in got.state_dict().items():
        if name.startswith(part):
            assert name.endswith("num_batches_tracked") or torch.equal(value, expected[name]), name


class Payload:
    """Creates a file when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


# --- training checkpoints --------------------------------------------------------------------------------------------


def training_checkpoint(model: nn.Module) -> dict:
    """What MMEngine's runner saves: logs, arrays and numpy numbers beside the tensors."""
    hub = MessageHub("test_training_checkpoint")
    for step in range(4):
        hub.update_scalar("train/loss", 1.0 / (step + 1), count=2)
    hub.update_info("best", np.float64(0.25))
    hub.update_info("array", np.arange(6, dtype=np.float32).reshape(2, 3))
    logs = hub.state_dict()
    logs["log_scalars"]["empty"] = HistoryBuffer()
    return {
        "meta": {
            "iter": 4,
            "epoch": 0,
            "seed": np.int64(3),
            "dataset_meta": {"classes": ("a", "b"), "palette": [[1, 2, 3]]},
        },
        "state_dict": OrderedDict(model.state_dict()),
        "message_hub": logs,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "param_schedulers": [{"last_step": 4, "_get_lr": None}],
    }


def test_a_training_checkpoint_is_read_whole_and_safely(source, tmp_path):
    wanted = training_checkpoint(source)
    wanted["state_dict"]._metadata = {"": {"version": 1}}
    torch.save(wanted, tmp_path / "iter_4.pth")
    got = load_from_file(str(tmp_path / "iter_4.pth"))
    assert got.keys() == wanted.keys()
    assert got["meta"] == wanted["meta"]
    assert got["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
    assert got["param_schedulers"] == wanted["param_schedulers"]
    assert got["state_dict"]._metadata == {"": {"version": 1}}
    assert all(torch.equal(got["state_dict"][name], value) for name, value in wanted["state_dict"].items())
    history = got["message_hub"]["log_scalars"]["train/loss"]
    assert type(history) is HistoryBuffer
    for mine, theirs in zip(history.data, wanted["message_hub"]["log_scalars"]["train/loss"].data, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(got["message_hub"]["log_scalars"]["empty"].data[0]) == 0
    assert history.mean() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 8)
    info = got["message_hub"]["runtime_info"]
    assert info["best"] == 0.25
    np.testing.assert_array_equal(info["array"], np.arange(6, dtype=np.float32).reshape(2, 3))
    MessageHub("test_resumed").load_state_dict(got["message_hub"])


def test_the_core_reads_it_too(source, tmp_path):
    torch.save(training_checkpoint(source), tmp_path / "iter_4.pth")
    net = build("resnest14", output_stride=8)
    assert load_checkpoint(net, tmp_path / "iter_4.pth").loaded == len(net.state_dict())


@pytest.mark.parametrize("place", ["top", "message_hub", "history"])
def test_code_in_a_checkpoint_never_runs(place, source, tmp_path):
    content, trace = training_checkpoint(source), tmp_path / "code_ran"
    if place == "top":
        content["extra"] = Payload(trace)
    elif place == "message_hub":
        content["message_hub"]["runtime_info"]["x"] = Payload(trace)
    else:
        history = HistoryBuffer()
        history.payload = Payload(trace)
        content["message_hub"]["log_scalars"]["x"] = history
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth holds more than tensors .* could run code: posix\.system"):
        load_from_file(str(tmp_path / "bad.pth"))
    assert not trace.exists()


def test_getattr_in_a_file_reaches_nothing(tmp_path):
    """MMEngine names methods of its logs by getattr; here that gives nothing to call."""

    class Reach:
        def __reduce__(self):
            return getattr, (HistoryBuffer, "__init__")

    torch.save({"x": Reach()}, tmp_path / "reach.pth")
    assert read_checkpoint(tmp_path / "reach.pth") == {"x": None}


def test_what_a_user_has_allowed_pytorch_to_read_does_not_stand_in_the_way(source, tmp_path):
    torch.save(training_checkpoint(source), tmp_path / "iter_4.pth")
    core = np._core if hasattr(np, "_core") else np.core
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([HistoryBuffer, core.multiarray._reconstruct, np.ndarray, np.dtype, getattr])
    try:
        got = load_from_file(str(tmp_path / "iter_4.pth"))
        assert len(torch.serialization.get_safe_globals()) == len({*before, HistoryBuffer, np.ndarray, np.dtype}) + 2
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert got["message_hub"]["log_scalars"]["train/loss"].data[0].shape == (4,)


def test_several_threads_read_at_once(tmp_path):
    torch.save({"x": np.arange(3), "state_dict": {}}, tmp_path / "file.pth")
    before = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(8) as threads:
        read = [*threads.map(read_checkpoint, [tmp_path / "file.pth"] * 80)]
    assert all(np.array_equal(content["x"], np.arange(3)) for content in read)
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_segmentor_at_a_url_loads(source, tmp_path, monkeypatch, safe_loading):
    with publishing("resnest50", {"state_dict": dict(source.state_dict())}, tmp_path, monkeypatch) as server:
        url = f"{server.record.base_url}/iter_4.pth"
        for _ in range(2):
            model = segmentor()
            load_segmentor(model, url)
            assert_same(model, source)
        assert CheckpointLoader.load_checkpoint(url)["state_dict"].keys() == source.state_dict().keys()
        assert server.requests == ["/iter_4.pth"]
    with pytest.raises(WeightsError, match=r"no_such_server.* could not be downloaded.*Put the file at"):
        load_segmentor(segmentor(), "http://no_such_server.invalid/other.pth")
    with pytest.raises(WeightsError, match="http://127.0.0.1/ names no file"):
        load_segmentor(segmentor(), "http://127.0.0.1/")


@pytest.fixture
def safe_loading(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, "_schemes", CheckpointLoader._schemes.copy())
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    use_safe_loading()


def test_importing_the_plugin_leaves_mmengines_loaders_alone():
    assert CheckpointLoader._schemes[""] is load_from_local
    assert CheckpointLoader._get_checkpoint_loader("resnest://resnest50").__name__ == "load_from_resnest"


def test_a_tools_process_reads_nothing_unsafely(safe_loading, tmp_path):
    torch.save({"state_dict": {}, "x": Payload(tmp_path / "code_ran")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth holds more"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "bad.pth"))
    with pytest.raises(Exception, match="posix.system"):
        torch.load(tmp_path / "bad.pth", weights_only=False)  # as MMEngine does for URLs
    assert not (tmp_path / "code_ran").exists()


# --- layouts of segmentors -------------------------------------------------------------------------------------------


def encoding_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The segmentor as PyTorch-Encoding names it."""
    renamed = {f"pretrained.{k}": v for k, v in convert_state_dict(trunk_of(model), "official").items()}
    pairs = {
        r"decode_head\.aspp_modules\.(\d)\.conv\.": r"head.aspp.b\1.0.",
        r"decode_head\.aspp_modules\.(\d)\.bn\.": r"head.aspp.b\1.1.",
        r"decode_head\.image_pool\.1\.conv\.": "head.aspp.b4.gap.1.",
        r"decode_head\.image_pool\.1\.bn\.": "head.aspp.b4.gap.2.",
        r"decode_head\.project\.conv\.": "head.aspp.project.0.",
        r"decode_head\.project\.bn\.": "head.aspp.project.1.",
        r"decode_head\.bottleneck\.conv\.": "head.block.0.",
        r"decode_head\.bottleneck\.bn\.": "head.block.1.",
        r"decode_head\.conv_seg\.": "head.block.4.",
        r"auxiliary_head\.convs\.0\.conv\.": "auxlayer.conv5.0.",
        r"auxiliary_head\.convs\.0\.bn\.": "auxlayer.conv5.1.",
        r"auxiliary_head\.conv_seg\.": "auxlayer.conv5.4.",
    }
    for key, value in model.state_dict().items():
        for pattern, replacement in pairs.items():
            if re.match(pattern, key):
                renamed[re.sub(pattern, replacement, key)] = value
    return renamed


def with_mmsegs_trunk(model: nn.Module) -> dict[str, torch.Tensor]:
    trunk = {f"backbone.{k}": v for k, v in convert_state_dict(trunk_of(model), "mmseg").items()}
    return trunk | {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}


WHOLE = {
    "own": lambda model: dict(model.state_dict()),
    "parallel": lambda model: {f"module.{k}": v for k, v in model.state_dict().items()},
    "encoding": encoding_names,
    "mmseg": with_mmsegs_trunk,
}


def hook_loads(model: nn.Module, content: dict, file: str) -> None:
    """As mmengine.Runner.load_checkpoint does."""
    runner = SimpleNamespace(model=model, _load_from=file, work_dir=None)
    ResNeStCheckpointHook().after_load_checkpoint(runner, content)
    model.load_state_dict(content["state_dict"], strict=True)


@pytest.mark.parametrize(
    ("layout", "container"),
    [("own", "state_dict"), ("parallel", None), ("encoding", "state_dict"), ("encoding", None), ("mmseg", None)],
)
def test_whole_segmentors_of_every_layout_load(layout, container, source, tmp_path):
    state = WHOLE[layout](source)
    assert len(state) == len(source.state_dict())
    content = {container: state} if container else state
    file = tmp_path / "segmentor.pth"
    torch.save(content, file)
    model = segmentor()
    load_segmentor(model, str(file))
    assert_same(model, source)
    other = segmentor()
    hook_loads(other, load_from_file(str(file)), str(file))
    assert_same(other, source)


@pytest.mark.parametrize("layout", ["core", "official"])
def test_a_trunk_alone_loads(layout, source, tmp_path):
    state = convert_state_dict(trunk_of(source), layout)
    torch.save(state, tmp_path / "trunk.pth")
    model = segmentor()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_segmentor(model, str(tmp_path / "trunk.pth"))
    assert_same(model, source, "backbone.")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if not k.startswith("backbone."))


def test_heads_of_other_classes_stay_and_are_left(source, tmp_path):
    torch.save({"state_dict": encoding_names(source)}, tmp_path / "encoding.pth")
    model = segmentor(num_classes=5)
    load_segmentor(model, str(tmp_path / "encoding.pth"))
    assert_same(model, source, "backbone.")
    assert_same(model, source, "decode_head.aspp_modules.")
    assert model.decode_head.conv_seg.out_channels == 5


@pytest.mark.parametrize("layout", ["own", "encoding"])
def test_a_segmentor_of_another_depth_is_refused_by_name(layout, tmp_path):
    with torch.device("meta"):
        state = WHOLE[layout](segmentor("resnest26"))
    file = str(tmp_path / "deeper.pth")
    torch.save({"state_dict": {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}}, file)
    with pytest.raises(CheckpointError, match=rf"{re.escape(file)}: the checkpoint is of another network: .*res2\.1\."):
        load_segmentor(segmentor(), file)
    with pytest.raises(CheckpointError, match=rf"{re.escape(file)}: the checkpoint is of another network"):
        hook_loads(segmentor(), load_from_file(file), file)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "not the layout of a known ResNeSt"),
        ({"backbone.layer1.0.conv1.weight": torch.zeros(1)}, "not the layout of a known ResNeSt"),
        ({"epoch": 3}, "not a state dict"),
    ],
)
def test_what_is_no_resnest_is_refused_by_name(state, message, tmp_path):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"other\.pth: {message}"):
        load_segmentor(segmentor(), str(tmp_path / "other.pth"))


def test_a_model_without_our_backbone_is_left_alone():
    content = {"state_dict": {"anything": 1}, "meta": {}}
    runner = SimpleNamespace(model=nn.Conv2d(1, 1, 1), _load_from="x.pth", work_dir=None)
    ResNeStCheckpointHook().after_load_checkpoint(runner, content)
    assert content == {"state_dict": {"anything": 1}, "meta": {}}
