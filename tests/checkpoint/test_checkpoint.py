"""Reading files that may be anything, filling networks from them, and writing them in another layout."""

import collections
import json
import logging
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convert_checkpoint import run as run_tool
from resnest_backbones import ResNeSt, ResNeStSpec, checkpoint, convert_state_dict, load_checkpoint
from resnest_backbones.checkpoint import TARGETS, read_checkpoint
from resnest_backbones.errors import CheckpointError
from tests.helpers import Payload

TINY = ResNeStSpec("tiny", (2, 1, 1, 1), stem_width=8, bottleneck_width=8)
LOGGER = "resnest_backbones.checkpoint"


def tiny_net(**arguments) -> ResNeSt:
    return ResNeSt(TINY, **{"num_classes": 5, **arguments})


def stem_alone() -> ResNeSt:
    return ResNeSt(TINY, out_features=("stem",))


@pytest.fixture(scope="module")
def source(fill_randomly) -> ResNeSt:
    """A tiny network with numbers that tell its tensors apart; tests leave it as it is."""
    return fill_randomly(tiny_net()).float()


@pytest.fixture(scope="module")
def official(source, tmp_path_factory) -> Path:
    """Its file in the layout of the published ones; tests leave it as it is, too."""
    file = tmp_path_factory.mktemp("official") / "file.pth"
    torch.save(convert_state_dict(source.state_dict(), "official"), file)
    return file


def torch_zip(content: object, file: Path) -> None:
    torch.save(content, file)


def torch_legacy(content: object, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def plain_pickle(content: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(content))


WRITERS = [torch_zip, torch_legacy, plain_pickle]


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.fault("a checkpoint with a pickled payload", "never run; refused in one line that names the file")
def test_code_in_a_file_is_not_run(write: Callable, suffix, tmp_path):
    file, trace = tmp_path / f"evil{suffix}", tmp_path / "trace"
    write({"model": Payload(trace)}, file)
    with pytest.raises(CheckpointError, match=re.escape(str(file))) as error:
        load_checkpoint(stem_alone(), file)
    assert not trace.exists()
    if (write, suffix) in ((torch_zip, ".pth"), (torch_legacy, ".pth"), (plain_pickle, ".pkl")):
        assert "contains more than tensors and plain containers" in str(error.value)
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload works, where it is let"


WEB_PAGE = pytest.mark.fault("a web page saved as a checkpoint", "refused in one line that names the file")


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r" does not exist"),
        ("", r" \(0 bytes\) is not a checkpoint"),
        ("# Notes\n", r" \(8 bytes\) is not a checkpoint, or is truncated(?!.*code)"),
        pytest.param("\n<!DOCTYPE html><html>", " is not a checkpoint but a web page", marks=WEB_PAGE),
    ],
)
def test_what_is_not_a_checkpoint_is_named(content, message, suffix, tmp_path):
    file = tmp_path / f"other{suffix}"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(str(file)) + message):
        load_checkpoint(stem_alone(), file)
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path} does not exist")):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("write", "suffix"), [(torch_zip, ".pth"), (torch_legacy, ".pth"), (plain_pickle, ".pkl")])
@pytest.mark.fault("a truncated checkpoint (each at 6 places)", "refused in one line that names the file")
def test_a_truncated_file_is_named(write, suffix, tmp_path):
    whole, file, net = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}", stem_alone()
    tensors = dict(net.state_dict())
    write({key: value.numpy() for key, value in tensors.items()} if suffix == ".pkl" else tensors, whole)
    content = whole.read_bytes()
    for length in (1, 2, 10, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=rf"cut\{suffix}"):
            load_checkpoint(net, file)


@pytest.mark.parametrize(("write", "suffix"), [(torch_legacy, ".pth"), (plain_pickle, ".pkl")])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.fault("a checkpoint in an older format with damaged bytes", "refused in one line that names the file")
def test_a_damaged_file_gives_no_other_error(write, suffix, tmp_path, record_property):
    file = tmp_path / f"damaged{suffix}"
    value = np.arange(6, dtype=np.float32)
    write({"stem.conv1_1.weight": value if suffix == ".pkl" else torch.from_numpy(value)}, file)
    content = file.read_bytes()
    damage, net = np.random.default_rng(0), stem_alone()
    for _ in range(300):
        damaged = bytearray(content)
        damaged[damage.integers(min(len(content), 200))] = damage.integers(256)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=re.escape(str(file))):  # not one has all tensors
            load_checkpoint(net, file)
    record_property("times", 300)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "it is empty"),
        ({"epoch": 3, "lr": 0.1}, "no tensors under epoch, lr"),
        ({"model": {"weights": [1, 2]}}, "no tensors under weights"),
        (torch.zeros(1), "contains a Tensor, not a dict of tensors"),
        ({0: torch.zeros(1)}, "keys of a state dict must be strings, got 0"),
        ({"vit": torch.zeros(1)}, "not the layout of a known ResNeSt"),
        ({"a": Namespace()}, "no tensors under a"),
        (
            {"a": Fraction(1, 2)},
            r"so it could run code and is refused: fractions\.Fraction$",
        ),  # and no advice to allow it
    ],
)
def test_a_file_without_a_state_dict_is_named(content, message, tmp_path):
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=rf"other\.pth.*{message}"):
        load_checkpoint(stem_alone(), file)


def assert_equal_states(got: nn.Module, want: nn.Module) -> None:
    torch.testing.assert_close(dict(got.state_dict()), dict(want.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(("protocol", "container"), [(2, collections.OrderedDict), (5, dict)])
def test_a_pickle_of_arrays_loads(protocol, container, source, tmp_path):
    arrays = container((key, value.numpy()) for key, value in source.state_dict().items())
    arrays["stem.conv1_1.norm.num_batches_tracked"] = np.int64(3)
    arrays["stem.conv1_1.weight"] = arrays["stem.conv1_1.weight"].astype(">f4")
    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=protocol))
    net = tiny_net()
    assert load_checkpoint(net, str(file)).loaded == len(net.state_dict())
    assert_equal_states(net, source)


def test_counters_that_were_not_saved_may_be_absent(source, tmp_path):
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "file.pth")
    net = tiny_net().double()
    assert load_checkpoint(net, tmp_path / "file.pth").loaded == len(state)
    for key, value in state.items():
        assert torch.equal(net.state_dict()[key], value.double()), key


def test_fewer_stages_and_no_classifier_load_and_report_the_rest(source, official, tmp_path, caplog):
    net = tiny_net(out_features=("res2", "res3"), num_classes=None)
    with caplog.at_level(logging.INFO, LOGGER):
        report = load_checkpoint(net, official)
    assert report.loaded == len(net.state_dict())
    assert "fc.weight" in report.unused
    assert {key.split(".")[0] for key in report.unused} == {"res4", "res5", "fc"}
    assert f"{official}: {len(report.unused)} tensors are not in the model: res4.0." in caplog.text
    assert torch.equal(net.res3[0].conv3.weight, source.res3[0].conv3.weight)
    state = {f"backbone.{key}": value for key, value in convert_state_dict(net.state_dict(), "mmseg").items()}
    torch.save({"state_dict": {**state, "decode_head.conv_seg.weight": torch.zeros(1)}}, tmp_path / "segmentor.pth")
    assert load_checkpoint(net, tmp_path / "segmentor.pth").unused == ("decode_head.conv_seg.weight",)


@pytest.mark.parametrize(
    ("layout", "options", "warns"),
    [
        ("mmseg", {"output_stride": 8}, True),
        ("mmseg", {"output_stride": 8, "avg_pool_at_stride_1": False}, False),
        ("mmseg", {"output_stride": 16, "out_features": ("res4",), "num_classes": None}, False),
        ("official", {"output_stride": 8}, False),
    ],
)
def test_a_file_of_mmsegmentation_warns_a_dilated_trunk_of_the_originals(
    layout, options, warns, source, tmp_path, caplog
):
    torch.save(convert_state_dict(source.state_dict(), layout), tmp_path / "file.pth")
    load_checkpoint(tiny_net(**options), tmp_path / "file.pth")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == warns
    if warns:
        assert messages[0].startswith(f"{tmp_path / 'file.pth'}: ")
        assert "this trunk has 2." in messages[0] and messages[0].endswith("set avg_pool_at_stride_1=False")


def test_a_file_that_does_not_fit_is_explained_and_the_model_untouched(official):
    net = tiny_net(in_channels=4, num_classes=9)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    message = re.escape(f"{official} (layout official) does not fit the model: ") + (
        r"\d+ of \d+ tensors match; 3 with a different shape "
        r"\(stem\.conv1_1\.weight is \(8, 3, 3, 3\) in the file and \(8, 4, 3, 3\) in the model, "
        r"fc\.weight is \(5, 2048\) in the file and \(9, 2048\) in the model"
    )
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(net, official)
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)


def test_offsets_of_deformable_convolutions_may_be_absent(source, official, caplog):
    caplog.set_level(logging.INFO, logger=LOGGER)
    net = tiny_net(deform_stages=("res5",))
    load_checkpoint(net, official)
    assert torch.equal(net.res5[0].conv2.conv.weight, source.res5[0].conv2.conv.weight)
    assert not net.res5[0].conv2_offset.weight.any()
    assert f"{official}: no offsets of deformable convolutions" in caplog.text


def test_what_is_named_new_stays_as_it_was_initialised(source, official):
    net = tiny_net(num_classes=9, in_channels=4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    load_checkpoint(net, official, new=("fc.", "stem.conv1_1.weight"))
    for key, value in net.state_dict().items():
        expected = before if key.startswith("fc.") or key == "stem.conv1_1.weight" else source.state_dict()
        assert torch.equal(value, expected[key]), key


def test_a_network_with_norms_of_its_own_loads_its_own_file(tmp_path):
    source, net = (tiny_net(norm_layer=lambda channels: nn.Sequential(nn.PReLU(channels))) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "own.pth")
    report = load_checkpoint(net, tmp_path / "own.pth")
    assert (report.layout, report.loaded, report.unused) == ("core", len(source.state_dict()), ())
    assert_equal_states(net, source)


def test_a_name_that_is_no_file_is_answered_with_what_may_be_one():
    net = stem_alone()
    with pytest.raises(CheckpointError, match="https://host/x.pth is neither a file nor resnest://NAME"):
        load_checkpoint(net, "https://host/x.pth")
    with pytest.raises(ValueError, match=r"no published weights are known for 'resnest://resnest152'; did you mean "):
        load_checkpoint(net, "resnest://resnest152")


@pytest.mark.parametrize("target", TARGETS)
def test_a_converted_file_holds_the_same_network(target, source, official, tmp_path, capsys):
    made = tmp_path / "out.pth"
    run_tool([str(official), str(made), "--to", target])
    net = tiny_net(num_classes=None if target in ("detectron2", "segmentor") else 5)
    report = load_checkpoint(net, made)
    assert report.layout == {"core": "detectron2", "segmentor": "detectron2", "timm": "official"}.get(target, target)
    assert report.unused == ()
    assert f"{made}: {report.loaded} tensors in the layout {target}" in capsys.readouterr().out
    for key, value in net.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, source.state_dict()[key]), key
    assert [*tmp_path.iterdir()] == [made]


def test_a_whole_detector_stays_whole(shared, tmp_path):
    golden = json.loads((shared / "reference" / "golden" / "d2_faster_rcnn_s50.json").read_text())
    torch.save({"model": {key: torch.zeros(1) for key in golden["state_dict"]}}, tmp_path / "in.pth")
    assert checkpoint.convert_file(tmp_path / "in.pth", tmp_path / "out.pth", "detectron2") == len(golden["state_dict"])
    made = read_checkpoint(tmp_path / "out.pth")
    assert made["model"].keys() == golden["state_dict"].keys() and "matching_heuristics" not in made


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_a_file_of_mmcvs_runner_keeps_the_names_of_its_classes(write, source, tmp_path):
    trunk = convert_state_dict(tiny_net(num_classes=None).state_dict(), "mmseg")
    state = collections.OrderedDict((f"backbone.{key}", value) for key, value in trunk.items())
    state["rpn_head.rpn_conv.weight"] = torch.ones(2)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    meta = {
        "CLASSES": ("red cell", "white cell"),
        "PALETTE": np.array([[255, 0, 0], [0, 0, 255]]),
        "config": "model = dict(\n    type='FasterRCNN')",
        "env_info": collections.OrderedDict(python="3.7"),
        "epoch": np.int64(12),
        "lr": np.float64(0.02),
        "hook_msgs": {},
        "seed": None,
    }
    write({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "in.pth")
    assert checkpoint.convert_file(tmp_path / "in.pth", tmp_path / "out.pth", "detectron2") == len(state)
    for file, key in (("in.pth", "state_dict"), ("out.pth", "model")):
        content = read_checkpoint(tmp_path / file)
        assert content["meta"]["CLASSES"] == meta["CLASSES"] and content["meta"]["config"] == meta["config"]
        assert content["meta"]["PALETTE"].tolist() == meta["PALETTE"].tolist() and content["meta"]["epoch"] == 12
        assert len(content[key]) == len(state)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ("out.pth", "caffe", "target must be one of core, .*, got 'caffe'"),
        ("out.pkl", "core", r"target_file must end in \.pth, got .*out\.pkl"),
        ("in.pth", "core", r"target_file must be a new file, but .*in\.pth exists"),
        ("none/out.pth", "core", "target_file must be in an existing folder, got .*none"),
    ],
)
def test_where_a_conversion_cannot_go_is_named(output, target, message, official, tmp_path):
    (tmp_path / "in.pth").touch()
    with pytest.raises(ValueError, match=message):
        checkpoint.convert_file(official, tmp_path / output, target)
