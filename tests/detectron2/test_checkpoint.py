import pytest

pytest.importorskip("detectron2")

import json
import logging
import os
import pickle
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from resnest_backbones import build, convert_state_dict, model_zoo
from resnest_backbones.checkpoint import convert_file, read_checkpoint
from resnest_backbones.checkpoint.layouts import COUNTER
from resnest_backbones.detectron2 import ResNeSt, ResNeStCheckpointer, register_weights_handler
from resnest_backbones.errors import CheckpointError, ResNeStError
from tests.detectron2 import helpers
from tests.detectron2.helpers import FPN_DETECTOR, distinct_tensors
from tests.helpers import Payload, publishing

TRUNK = "backbone.bottom_up."
BOTH = pytest.mark.parametrize("checkpointer", [DetectionCheckpointer, ResNeStCheckpointer])


@pytest.fixture(autouse=True)
def logs_reach_caplog(monkeypatch, caplog):
    """Detectron2's setup_logger, which another test may have called, cuts its loggers off from the root."""
    for name in ("fvcore", "detectron2", "resnest_backbones"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    caplog.set_level(logging.INFO)


def our_messages(caplog, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("resnest_backbones") and r.levelno >= level]


def core_state() -> dict[str, torch.Tensor]:
    """A ResNeSt-14 with its classifier, under the core's names, without counters."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build("resnest14", num_classes=1000).state_dict().items()}
    return distinct_tensors(plain(shapes))


def trunk_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {TRUNK + name: value for name, value in state.items() if not name.startswith("fc.")}


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def differing(model: nn.Module, expected: dict[str, torch.Tensor]) -> list[str]:
    loaded = model.state_dict()
    return [name for name, value in expected.items() if not torch.equal(loaded[name], value)]


def of_golden(shared: Path, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """A golden, and a state under its names."""
    golden = json.loads((shared / "reference" / "golden" / f"{name}.json").read_text())
    state = distinct_tensors(golden["state_dict"])
    return golden, {k: torch.zeros((), dtype=torch.int64) if k.endswith(COUNTER) else v for k, v in state.items()}


# Weights from resnest://.


@pytest.fixture
def server(tmp_path, monkeypatch):
    with publishing("resnest50", convert_state_dict(core_state(), "official"), tmp_path, monkeypatch) as server:
        yield server


def without_locks(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix != ".lock")


@BOTH
@pytest.mark.parametrize(("norm", "freeze_at"), [("BN", 0), ("FrozenBN", 2)])
def test_published_weights_fill_the_trunk_of_a_detector(server, caplog, checkpointer, norm, freeze_at):
    model = helpers.detector(FPN_DETECTOR, {"MODEL.RESNETS.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": freeze_at})
    checkpointer(model).resume_or_load("resnest://resnest50", resume=False)
    assert differing(model, trunk_of(core_state())) == []
    assert "not used by the model" not in caplog.text
    missing = [r.getMessage() for r in caplog.records if "not found in the checkpoint" in r.getMessage()]
    assert len(missing) == 1 and "bottom_up" not in missing[0], missing
    assert not [m for m in our_messages(caplog) if "in part" in m]


def test_published_weights_are_fetched_once_and_open_as_a_read_only_file_of_the_trunk(server, model):
    for checkpointer in (DetectionCheckpointer, ResNeStCheckpointer, DetectionCheckpointer):
        checkpointer(model).load("resnest://resnest50")
    assert server.requests == [f"/{server.record.filename}"]
    stem = server.record.filename.removesuffix(".pth")
    assert without_locks(server.cache) == [f"{stem}.detectron2.pth", f"{stem}.pth"]
    register_weights_handler()  # twice is safe
    with PathManager.open("resnest://resnest50", "rb") as stream:
        content = torch.load(stream, weights_only=True)
    assert content["matching_heuristics"] is True
    assert set(content["model"]) == {name for name in core_state() if not name.startswith("fc.")}
    with pytest.raises(OSError, match="read-only"):
        PathManager.open("resnest://resnest50", "wb")


# Files of other programs. tests/checkpoint has every layout and container.


def files_of_others() -> dict[str, dict]:
    core = core_state()
    official = convert_state_dict(core, "official")
    mmseg = {f"backbone.{k}": v for k, v in convert_state_dict(core, "mmseg").items() if not k.startswith("head.")}
    wrapper = {name.replace("fc.", "linear.") if name.startswith("fc.") else name: v for name, v in core.items()}
    heads = {"decode_head.conv_seg.weight": torch.rand(2), "head.conv6.weight": torch.rand(2)}
    return {
        "official, from DataParallel": {"state_dict": {f"module.{k}": v for k, v in official.items()}},
        "mmseg": {"meta": {"epoch": 1}, "state_dict": {**mmseg, **heads}},
        "encoding": {f"pretrained.{k}": v for k, v in official.items() if not k.startswith("fc.")} | heads,
        "wrapper backbone": {"model": wrapper, "__author__": "ResNeSt"},
    }


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A detector that tests load files into."""
    return helpers.detector(FPN_DETECTOR, {"MODEL.BACKBONE.FREEZE_AT": 2})


@pytest.mark.parametrize("kind", files_of_others())
def test_a_trunk_in_any_layout_fills_a_detector(kind, model, tmp_path, caplog):
    torch.save(files_of_others()[kind], tmp_path / "file.pth")
    ResNeStCheckpointer(model).load(str(tmp_path / "file.pth"))
    expected, everything = trunk_of(core_state()), plain(model.state_dict())
    assert differing(model, expected) == []
    assert our_messages(caplog) == [], "all of the file was used: no reason to warn"
    counts = f"{len(expected)} of {len(everything)} tensors match; {len(everything) - len(expected)} missing"
    assert f"{counts} (backbone.fpn_" in our_messages(caplog, logging.INFO)[-1]
    assert "not used by the model" not in caplog.text


def test_a_file_of_openmmlab_warns_a_dilated_trunk_with_the_key_to_set(tmp_path, caplog):
    torch.save(files_of_others()["mmseg"], tmp_path / "file.pth")
    for kept in (False, True):
        assert "average pool" not in caplog.text
        net = ResNeSt("resnest14", output_stride=8, avg_pool_at_stride_1=kept)
        ResNeStCheckpointer(net).load(str(tmp_path / "file.pth"))
    assert "set MODEL.RESNETS.AVG_POOL_AT_STRIDE_1 False" in our_messages(caplog)[-1]


def test_a_detector_of_the_wrapper_fills_ours(shared, tmp_path, caplog):
    """Through Detectron2's own checkpointer, too: tests/parity/test_detectron2_goldens.py."""
    golden, state = of_golden(shared, "d2_faster_rcnn_s50")
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": []}, "iteration": 9}, tmp_path / "file.pth")
    recipe = json.loads((shared / "reference" / "d2_recipes.json").read_text())["recipes"][golden["config"]]
    model = helpers.detector(recipe, {"MODEL.RESNETS.DEPTH": 50, "MODEL.BACKBONE.FREEZE_AT": 2})
    ResNeStCheckpointer(model).load(str(tmp_path / "file.pth"))
    assert differing(model, state) == []
    assert "not used by the model" not in caplog.text and "not found in the checkpoint" not in caplog.text
    assert our_messages(caplog) == []
    count = len(plain(state))
    assert f"{count} of {count} tensors match" in our_messages(caplog, logging.INFO)[-1]


@pytest.mark.parametrize("converted", [False, True])
def test_a_detector_of_mmdetection_fills_its_recipes(converted, shared, tmp_path, caplog):
    _, state = of_golden(shared, "mmdet_cascade_rcnn_s50")
    file = tmp_path / "file.pth"
    torch.save({"meta": {"CLASSES": ("person", "bicycle")}, "state_dict": state}, file)
    if converted:
        file = tmp_path / "converted.pth"
        convert_file(tmp_path / "file.pth", file, "detectron2")
    cfg = model_zoo.get_config("cascade_rcnn_resnest50_fpn_1x_mmdet")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    checkpointer = ResNeStCheckpointer(model)
    checkpointer.require_whole = True
    checkpointer.load(str(file))
    assert differing(model, plain(convert_state_dict(state, "detectron2"))) == []
    assert our_messages(caplog) == []
    count = len(plain(state))
    assert f"{count} of {count} tensors match" in our_messages(caplog, logging.INFO)[-1]


@pytest.mark.parametrize("kept", ["nothing", "res"])
def test_a_partly_matching_checkpoint_warns_in_detectron2s_checkpointer_and_is_refused_by_ours(
    kept, model, tmp_path, caplog
):
    expected = trunk_of(core_state())
    state = {name: value for name, value in expected.items() if name.startswith(TRUNK + kept)}
    torch.save({"model": state | {"other.weight": torch.rand(2)}}, tmp_path / "part.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "part.pth"))
    assert differing(model, state) == []
    first = next(name for name in expected if name not in state)
    counts = f"{len(state)} of {len(expected)} tensors match; {len(expected) - len(state)} missing ({first}"
    assert f"fills only part of the ResNeSt: {counts}" in our_messages(caplog)[0]
    with pytest.raises(CheckpointError) as error:
        ResNeStCheckpointer(model).load(str(tmp_path / "part.pth"))
    both = "the file contains no complete ResNeSt, the model is resnest14"
    wanted = f"part.pth does not fit the model's ResNeSt: {both}; {counts}"
    assert wanted.replace(TRUNK, "") in str(error.value)


def test_files_of_trainings_fill_the_trunk_with_the_part_that_is_named(model, tmp_path, caplog):
    average = {key: value + 1 for key, value in core_state().items()}
    content = {"state_dict": core_state(), "state_dict_ema": average, "args": Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "file.pth")
    for part, state in (("", core_state()), ("#ema", average)):
        caplog.clear()
        ResNeStCheckpointer(model).load(f"{tmp_path / 'file.pth'}{part}")
        assert differing(model, trunk_of(state)) == []
        offers = [message for message in our_messages(caplog) if message.endswith("file.pth#state_dict_ema")]
        assert len(our_messages(caplog)) == len(offers) == (not part)


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up."])
def test_a_trunk_goes_where_the_model_has_its_own(prefix, model, tmp_path, caplog):
    """A segmentor's stands behind backbone., a detector's with a pyramid behind backbone.bottom_up."""
    state = {prefix + key: value for key, value in core_state().items() if not key.startswith("fc.")}
    heads = {"decode_head.conv_seg.weight": torch.ones(2)}
    torch.save({"state_dict": state | heads}, tmp_path / "file.pth")
    for net, own in ((model, TRUNK), (helpers.detector(helpers.SINGLE_STAGE_DETECTOR), "backbone.")):
        caplog.clear()
        ResNeStCheckpointer(net).load(str(tmp_path / "file.pth"))
        stages = {key.split(".")[len(own.split(".")) - 1] for key in net.state_dict() if key.startswith(own)}
        trunk = {own + key: value for key, value in core_state().items() if key.split(".")[0] in stages - {"fc"}}
        assert trunk and differing(net, trunk) == []
        assert " unexpected (" in our_messages(caplog)[-1]


@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_another_depth_are_refused_and_both_networks_named(whole, model, tmp_path):
    deeper = ResNeSt("resnest26")
    trunk = {key: torch.zeros(()).expand(value.shape) for key, value in plain(deeper.state_dict()).items()}
    torch.save({"model": {TRUNK + key: value for key, value in trunk.items()} if whole else trunk}, tmp_path / "26.pth")
    torch.save(convert_state_dict(core_state(), "timm"), tmp_path / "14.pth")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"26\.pth does not fit .*: the file contains resnest26, the model is resnest14; "
    ):
        ResNeStCheckpointer(model).load(str(tmp_path / "26.pth"))
    assert differing(model, before) == []
    with pytest.raises(
        CheckpointError, match=r"contains resnest14, the model is resnest26; 127 of \d+ .* missing \(res2\.1"
    ):
        ResNeStCheckpointer(deeper).load(str(tmp_path / "14.pth"))


def test_a_file_that_fills_nothing_is_refused(resnet, tmp_path):
    torch.save(convert_state_dict(core_state(), "timm"), tmp_path / "resnest.pth")
    with pytest.raises(CheckpointError, match=r"resnest\.pth contains a ResNeSt, but the model has none"):
        ResNeStCheckpointer(resnet).load(str(tmp_path / "resnest.pth"))
    torch.save({"model": {"blocks.0.weight": torch.ones(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth matches nothing in the model: 0 of \d+ tensors match"):
        ResNeStCheckpointer(resnet).load(str(tmp_path / "other.pth"))
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match=r"empty\.pth: not a state dict"):
        ResNeStCheckpointer(resnet).load(str(tmp_path / "empty.pth"))


def test_heads_of_other_classes_are_left_out_in_one_line(model, tmp_path, caplog):
    trained = helpers.detector(FPN_DETECTOR, {"MODEL.ROI_HEADS.NUM_CLASSES": 7})
    state = distinct_tensors({name: value.shape for name, value in plain(trained.state_dict()).items()})
    torch.save({"model": state}, tmp_path / "seven.pth")
    caplog.clear()
    ResNeStCheckpointer(model).load(str(tmp_path / "seven.pth"))
    fitting = {name: value for name, value in state.items() if "box_predictor" not in name}
    assert differing(model, fitting) == []
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"seven.pth: {len(fitting)} of {len(state)} tensors match; 4 with a different shape (roi_heads.box" in line
    assert line.endswith("; tensors with a different shape keep their initialization")


@pytest.mark.parametrize(("classes", "number"), [(["a", "c", "b"], 3), (["a", "b"], 2), (None, 2)])
def test_a_training_resumes_with_its_own_classes_only(classes, number, model, tmp_path):
    ResNeStCheckpointer(model, str(tmp_path), save_to_disk=False).save("last")  # what processes but the first do
    assert not any(tmp_path.iterdir())
    saving = ResNeStCheckpointer(model, str(tmp_path))
    saving.class_names = classes and ["a", "b", "c"]
    saving.save("model_0000001", iteration=1)
    other = helpers.detector(FPN_DETECTOR, {"MODEL.ROI_HEADS.NUM_CLASSES": number})
    resuming = ResNeStCheckpointer(other, str(tmp_path))
    resuming.class_names = classes or []
    file = tmp_path / "model_0000001.pth"
    lists = rf"3 \(a, b, c\) there, {number} \({', '.join(classes or [])}\) in the data"
    unnamed = rf"{file} does not fit the model of the config: .*cls_score"
    with pytest.raises(ResNeStError, match=f"--resume continues from {file}, .*: {lists}; " if classes else unnamed):
        resuming.resume_or_load("", resume=True)
    if number == 3:
        resuming.class_names = ["a", "b", "c"]
        assert resuming.resume_or_load("", resume=True)["iteration"] == 1


def test_a_file_that_cannot_be_had_is_named_and_the_wrappers_dead_server_explained():
    model = ResNeSt("resnest14")
    with pytest.raises(CheckpointError, match=r"none\.pth could not be loaded: Checkpoint .* not found"):
        ResNeStCheckpointer(model).load("none.pth")
    url = "http://127.0.0.1:9/resnest50_detectron-255b5649.pth"
    with pytest.raises(CheckpointError, match="could not be loaded: .*refused.*; use resnest://resnest50, or"):
        ResNeStCheckpointer(model).load(url)


@pytest.mark.fault("a checkpoint with a pickled payload at a URL", "never run; refused in one line that names the file")
def test_a_checkpoint_at_a_url_is_fetched_once_and_its_code_is_not_run(server, tmp_path, monkeypatch):
    """By our own download, since iopath's has no time-out; into iopath's cache all the same."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "iopath"))
    model, url = ResNeSt("resnest14"), f"{server.record.base_url}/some/folder"
    for _ in range(2):
        ResNeStCheckpointer(model).load(f"{url}/model.pth?matching_heuristics=True")
    assert server.requests == ["/some/folder/model.pth"]
    assert (tmp_path / "iopath" / "some" / "folder" / "model.pth").read_bytes() == server.content
    assert differing(model, {n: v for n, v in core_state().items() if not n.startswith("fc.")}) == []
    torch.save({"model": Payload(tmp_path / "trap")}, tmp_path / "evil.pth")
    server.content = (tmp_path / "evil.pth").read_bytes()
    with pytest.raises(CheckpointError, match=r"evil\.pth contains more than tensors and plain containers"):
        ResNeStCheckpointer(model).load(f"{url}/evil.pth")
    assert not (tmp_path / "trap").exists()


def test_a_cache_that_may_only_be_read_is_read(server, tmp_path, monkeypatch):
    path = PathManager.get_local_path("resnest://resnest50")
    published = Path(path).with_name(Path(path).name.replace(".detectron2", ""))
    Path(path).unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    again = PathManager.get_local_path("resnest://resnest50")
    assert Path(again).parent != published.parent and Path(again).name == Path(path).name
    assert read_checkpoint(again)["matching_heuristics"] is True


def test_weights_for_other_images_are_reported_and_keys_of_no_resnest_refused(model, tmp_path, caplog):
    core = core_state() | {"stem.conv1_1.weight": torch.rand(64, 3, 3, 3)}
    torch.save(convert_state_dict(core, "official"), tmp_path / "wide.pth")
    with pytest.raises(
        CheckpointError, match=r"the file contains a ResNeSt of 1, 1, 1, 1 blocks, the model is resnest14; "
    ):
        ResNeStCheckpointer(model).load(str(tmp_path / "wide.pth"))
    core = core_state() | {"stem.conv1_1.weight": torch.rand(32, 4, 3, 3)}
    torch.save(convert_state_dict(core, "official"), tmp_path / "four.pth")
    ResNeStCheckpointer(model).load(str(tmp_path / "four.pth"))
    warnings = our_messages(caplog)
    assert (
        "1 with a different shape (backbone.bottom_up.stem.conv1_1.weight is (32, 4, 3, 3) in the file" in warnings[-1]
    )
    state = convert_state_dict(core_state(), "official") | {"layer1.0.conv4.weight": torch.rand(1)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth.*layer1\.0\.conv4\.weight"):
        ResNeStCheckpointer(model).load(str(tmp_path / "x.pth"))


# Other projects' files.


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A plain ResNet detector that tests load files into."""
    keys = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH": 50}
    return helpers.detector(FPN_DETECTOR, keys)


def test_a_caffe2_file_of_the_first_detectron_fills_a_plain_resnet(resnet, tmp_path):
    arrays = {
        "conv1_w": np.full((64, 3, 7, 7), 0.25, dtype=np.float32),
        "res_conv1_bn_s": np.full(64, 0.5, dtype=np.float32),
        "res2_0_branch2a_w": np.full((64, 64, 1, 1), 0.75, dtype=np.float32),
        "conv1_w_momentum": np.zeros((64, 3, 7, 7), dtype=np.float32),
    }
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    ResNeStCheckpointer(resnet).load(str(tmp_path / "R-50.pkl"))
    trunk = resnet.backbone.bottom_up
    assert (trunk.stem.conv1.weight == 0.25).all()
    assert (trunk.stem.conv1.norm.weight == 0.5).all()
    assert (trunk.res2[0].conv1.weight == 0.75).all()


@pytest.mark.parametrize(("name", "query"), [("file.pth", "?matching_heuristics=True"), ("file.pyth", "")])
def test_matching_by_the_ends_of_names_works_as_in_detectron2(name, query, resnet, tmp_path):
    weight = torch.full((64, 3, 7, 7), float(len(name)))
    torch.save({"model_state" if name.endswith(".pyth") else "model": {"stem.conv1.weight": weight}}, tmp_path / name)
    ResNeStCheckpointer(resnet).load(f"{tmp_path / name}{query}")
    assert torch.equal(resnet.backbone.bottom_up.stem.conv1.weight, weight)


# Saving and resuming.


@BOTH
@pytest.mark.parametrize("norms", [("BN", "FrozenBN"), ("FrozenBN", "BN")], ids=" to ".join)
def test_a_saved_detector_loads_whether_or_not_its_norms_count_batches(checkpointer, norms, tmp_path, caplog):
    keys = [{"MODEL.RESNETS.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": 1} for norm in norms]
    model, again = (helpers.detector(FPN_DETECTOR, key, seed=seed) for seed, key in enumerate(keys))
    ResNeStCheckpointer(model, str(tmp_path)).save("model_final")
    checkpointer(again).load(str(tmp_path / "model_final.pth"))
    assert differing(again, plain(model.state_dict())) == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
