"""Checkpoints of MMEngine's runners, in every layout, read without running code."""

import logging
import re
from argparse import Namespace
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import mmseg.models  # noqa: F401  registers the segmentors
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local
from mmseg.registry import MODELS
from torch import nn

from resnest_backbones import build, convert_state_dict, load_checkpoint
from resnest_backbones.checkpoint import read_checkpoint
from resnest_backbones.errors import CheckpointError, WeightsError
from resnest_backbones.mmseg import ResNeStCheckpointHook, load_segmentor, use_safe_loading
from resnest_backbones.mmseg.checkpoint import load_from_file, reorder_classes
from tests.helpers import Payload, publishing

BACKBONE = {"type": "ResNeStBackbone", "name": "resnest14", "output_stride": 8}
NORM = {"type": "BN", "requires_grad": True}


def segmentor(name: str = "resnest14", num_classes: int = 3) -> nn.Module:
    head = {"num_classes": num_classes, "norm_cfg": NORM}
    return MODELS.build(
        {
            "type": "EncoderDecoder",
            "backbone": {**BACKBONE, "name": name},
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


def training_checkpoint(model: nn.Module) -> dict:
    """What MMEngine's runner saves: logs, arrays and numpy numbers beside the tensors."""
    hub = MessageHub("test_training_checkpoint")
    for step in range(4):
        hub.update_scalar("train/loss", 1.0 / (step + 1), count=2)
    hub.update_info("best", np.float64(0.25))
    hub.update_info("array", np.arange(6, dtype=np.float32).reshape(2, 3))
    logs = hub.state_dict()
    logs["log_scalars"]["empty"] = HistoryBuffer()
    dataset_meta = {"classes": ("a", "b"), "palette": [[1, 2, 3]]}
    return {
        "meta": {"iter": 4, "epoch": 0, "seed": np.int64(3), "dataset_meta": dataset_meta},
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
    for key in ("meta", "param_schedulers"):
        assert got[key] == wanted[key]
    assert got["optimizer"]["param_groups"] == wanted["optimizer"]["param_groups"]
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
    net = build("resnest14", output_stride=8)
    assert load_checkpoint(net, tmp_path / "iter_4.pth").loaded == len(net.state_dict()), "the core reads it too"


@pytest.mark.parametrize("place", ["top", "message_hub", "history"])
def test_code_in_a_checkpoint_never_runs(place, tmp_path):
    content, trace = training_checkpoint(nn.Linear(1, 1)), tmp_path / "code_ran"
    if place == "top":
        content["extra"] = Payload(trace)
    elif place == "message_hub":
        content["message_hub"]["runtime_info"]["x"] = Payload(trace)
    else:
        history = HistoryBuffer()
        history.payload = Payload(trace)
        content["message_hub"]["log_scalars"]["x"] = history
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(
        CheckpointError, match=r"bad\.pth contains more than tensors .* could run code and is refused: posix\.system"
    ):
        load_from_file(str(tmp_path / "bad.pth"))
    assert not trace.exists()


def test_getattr_in_a_file_reaches_nothing(tmp_path):
    """MMEngine names methods of its logs by getattr; here that gives nothing to call."""

    class Reach:
        def __reduce__(self):
            return getattr, (HistoryBuffer, "__init__")

    torch.save({"x": Reach()}, tmp_path / "reach.pth")
    assert read_checkpoint(tmp_path / "reach.pth") == {"x": None}


def test_what_a_user_has_allowed_pytorch_to_read_does_not_stand_in_the_way_of_several_threads(tmp_path):
    file, core = tmp_path / "iter_4.pth", np._core if hasattr(np, "_core") else np.core
    torch.save(training_checkpoint(nn.Linear(1, 1)), file)
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([HistoryBuffer, core.multiarray._reconstruct, np.ndarray, np.dtype, getattr])
    allowed = set(torch.serialization.get_safe_globals())
    try:
        with ThreadPoolExecutor(8) as threads:
            read = [*threads.map(load_from_file, [str(file)] * 16)]
        assert set(torch.serialization.get_safe_globals()) == allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert all(one["message_hub"]["log_scalars"]["train/loss"].data[0].shape == (4,) for one in read)


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
    with pytest.raises(WeightsError, match="http://127.0.0.1/ does not name a file"):
        load_segmentor(segmentor(), "http://127.0.0.1/")


@pytest.fixture
def safe_loading(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, "_schemes", CheckpointLoader._schemes.copy())
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    use_safe_loading()


def test_a_tools_process_reads_nothing_unsafely_and_other_processes_keep_mmengines_loaders(request, tmp_path):
    assert CheckpointLoader._schemes[""] is load_from_local
    assert CheckpointLoader._get_checkpoint_loader("resnest://resnest50").__name__ == "load_from_resnest"
    request.getfixturevalue("safe_loading")
    torch.save({"state_dict": {}, "x": Payload(tmp_path / "code_ran")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth contains more"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "bad.pth"))
    with pytest.raises(Exception, match="posix.system"):
        torch.load(tmp_path / "bad.pth", weights_only=False)  # as MMEngine does for URLs
    assert not (tmp_path / "code_ran").exists()


def encoding_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """The segmentor as PyTorch-Encoding names it."""
    renamed = {f"pretrained.{k}": v for k, v in convert_state_dict(trunk_of(model), "official").items()}
    pairs = {f"decode_head.aspp_modules.{i}.": (f"head.aspp.b{i}.", 0) for i in range(4)} | {
        "decode_head.image_pool.1.": ("head.aspp.b4.gap.", 1),
        "decode_head.project.": ("head.aspp.project.", 0),
        "decode_head.bottleneck.": ("head.block.", 0),
        "decode_head.conv_seg.": ("head.block.4.", None),
        "auxiliary_head.convs.0.": ("auxlayer.conv5.", 0),
        "auxiliary_head.conv_seg.": ("auxlayer.conv5.4.", None),
    }
    for key, value in model.state_dict().items():
        for prefix, (new, first) in pairs.items():
            if key.startswith(prefix):
                rest = key.removeprefix(prefix)
                if first is not None:  # a convolution and its norm
                    rest = rest.replace("conv.", f"{first}.").replace("bn.", f"{first + 1}.")
                renamed[new + rest] = value
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
    runner = SimpleNamespace(model=model, _load_from=file, work_dir=None, hooks=[])
    ResNeStCheckpointHook().after_load_checkpoint(runner, content)
    model.load_state_dict(content["state_dict"], strict=True)


@pytest.mark.parametrize(
    ("layout", "container"), [("own", "state_dict"), ("parallel", None), ("encoding", "state_dict"), ("mmseg", None)]
)
def test_whole_segmentors_of_every_layout_load_and_mmsegmentations_warns_of_its_pools(
    layout, container, source, tmp_path, caplog
):
    state = WHOLE[layout](source)
    assert len(state) == len(source.state_dict())
    file = str(tmp_path / "segmentor.pth")
    torch.save({container: state} if container else state, file)
    models = segmentor(), segmentor()
    MMLogger.get_current_instance().addHandler(caplog.handler)
    load_segmentor(models[0], file)
    warnings = [record.getMessage() for record in caplog.records if "average pool" in record.getMessage()]
    assert len(warnings) == (layout == "mmseg")
    assert all(warning.endswith("set avg_pool_at_stride_1=False") for warning in warnings)
    hook_loads(models[1], load_from_file(file), file)
    for model in models:
        assert_same(model, source)


def test_a_trunk_alone_loads_and_heads_of_other_classes_stay(source, tmp_path):
    torch.save(convert_state_dict(trunk_of(source), "official"), tmp_path / "trunk.pth")
    model = segmentor()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_segmentor(model, str(tmp_path / "trunk.pth"))
    assert_same(model, source, "backbone.")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if not k.startswith("backbone."))
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
    file, model = str(tmp_path / "deeper.pth"), segmentor()
    torch.save({"state_dict": {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}}, file)
    names = "the file contains resnest26, the model is resnest14; "
    message = rf"{re.escape(file)}: the checkpoint is of a different network: {names}.*res2\.1\."
    with pytest.raises(CheckpointError, match=message):
        load_segmentor(model, file)
    with pytest.raises(CheckpointError, match=message):
        hook_loads(model, load_from_file(file), file)


def test_a_model_without_our_backbone_is_left_alone_unless_the_file_fills_nothing():
    model = nn.Conv2d(1, 1, 1)
    runner = SimpleNamespace(model=model, _load_from="x.pth", work_dir=None, hooks=[])
    content = {"state_dict": {"module.weight": model.weight, "anything": 1}, "meta": {}}
    ResNeStCheckpointHook().after_load_checkpoint(runner, content)
    assert content == {"state_dict": {"module.weight": model.weight, "anything": 1}, "meta": {}}
    with pytest.raises(CheckpointError, match=r"x\.pth matches nothing in the model: 0 of 2 tensors match"):
        ResNeStCheckpointHook().after_load_checkpoint(runner, {"state_dict": {"anything": torch.ones(1)}})


def behind(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def test_a_part_of_a_file_of_a_training_loads_by_init_cfg_and_by_load_from(source, tmp_path, safe_loading, caplog):
    """tests/checkpoint/test_contents.py has what other trainings leave."""
    state = convert_state_dict(trunk_of(source), "official")
    average = {key: value + 1 for key, value in state.items()}
    content = {"state_dict": state, "state_dict_ema": average, "args": Namespace(lr=0.1), "optimizer": {"state": {}}}
    torch.save(content, file := tmp_path / "file.pth")
    for part, wanted in (("", state), ("#ema", average)):
        wanted = {key: value for key, value in convert_state_dict(wanted).items() if "num_batches" not in key}
        model, name = segmentor(), f"{file}{part}"
        caplog.clear()
        hook_loads(model, CheckpointLoader.load_checkpoint(name), name)
        lines = [record.getMessage() for record in caplog.records if "for others, pass " in record.getMessage()]
        assert len(lines) == (not part)
        backbone = MODELS.build({**BACKBONE, "init_cfg": {"type": "Pretrained", "checkpoint": name}})
        backbone.init_weights()
        for loaded in (trunk_of(model), backbone.state_dict()):
            assert all(torch.equal(loaded[key], value) for key, value in wanted.items())


def test_mmengine_alone_finds_the_weights_of_torchvisions_training(source, tmp_path):
    """It takes the whole file for a state dict, as other projects' trainings do."""
    state = convert_state_dict(trunk_of(source), "official")
    ema = behind("module.", {key: value + 1 for key, value in state.items()})
    torch.save({"model": state, "model_ema": ema, "args": Namespace(lr=0.1)}, file := tmp_path / "file.pth")
    backbone = MODELS.build({**BACKBONE, "init_cfg": {"type": "Pretrained", "checkpoint": str(file)}})
    with torch.serialization.safe_globals([Namespace]):
        backbone.init_weights()
    assert torch.equal(backbone.stem.conv1_1.weight, source.backbone.stem.conv1_1.weight)


def test_heads_of_other_classes_stay_in_one_line_in_a_training(source, caplog):
    MMLogger.get_current_instance().addHandler(caplog.handler)
    model = segmentor(num_classes=5)
    hook_loads(model, {"state_dict": dict(source.state_dict())}, "three.pth")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.search(
        r"three\.pth: \d+ of \d+ tensors match; 4 with a different shape \(decode_head\.conv_seg\.weight", line
    )
    assert line.endswith("; heads that do not match keep their initialization")
    assert_same(model, source, "backbone.")
    assert_same(model, source, "decode_head.bottleneck.")


@pytest.mark.parametrize("state", [{}, {"decode_head.conv_seg.weight": torch.ones(1)}])
def test_a_training_does_not_start_from_heads_alone(state, source, tmp_path):
    with pytest.raises(CheckpointError, match=r"file\.pth: not "):
        hook_loads(source, {"state_dict": state}, "file.pth")


def test_classes_in_the_order_wanted(source, tmp_path, caplog):
    meta = {"dataset_meta": {"classes": ("a", "b", "c")}}
    torch.save({"state_dict": source.state_dict(), "meta": meta}, tmp_path / "file.pth")
    model, other = segmentor(), segmentor()
    load_segmentor(model, str(tmp_path / "file.pth"), ("c", "a", "b"))
    assert "matched by name: 3 (a, b, c) in the model, 3 (c, a, b) in the data" in caplog.text
    for head in ("decode_head", "auxiliary_head"):
        for name in ("weight", "bias"):
            own, theirs = (getattr(m.get_submodule(head).conv_seg, name) for m in (model, source))
            assert torch.equal(own, theirs[[2, 0, 1]])
    load_segmentor(other, str(tmp_path / "file.pth"), ("x", "y", "z"))  # other names for the same classes
    assert_same(other, source)
    with pytest.raises(
        CheckpointError, match=r"file\.pth has its classes in a different order .* no decode_head\.conv_seg with 3"
    ):
        reorder_classes({"decode_head.cls_seg.weight": torch.ones(3)}, [2, 0, 1], "file.pth")
