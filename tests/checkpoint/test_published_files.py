"""A published checkpoint that a user has is known by its name, held to its hash and evaluated; others are refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resnest_backbones import build, model_zoo
from resnest_backbones.checkpoint import load_checkpoint, read_checkpoint
from resnest_backbones.errors import CheckpointError
from resnest_backbones.weights import PUBLISHED, find_published, records
from tests.helpers import ROOT, TINY_DETECTOR

RECIPE = "mask_rcnn_resnest50_fpn_1x"
NAME = "mask_rcnn_ResNeSt_50_FPN_syncBN_1x-f442d863.pth"
TINY = [*TINY_DETECTOR, "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "TEST.DETECTIONS_PER_IMAGE", "5"]
CONFIG = ROOT / "configs" / "detectron2" / "coco_instance_segmentation" / f"{RECIPE}.yaml"


def digits(file: Path, kind: str = "sha256") -> str:
    return hashlib.new(kind, file.read_bytes()).hexdigest()[:8]


def publish(file: Path, recipe: str, patch: pytest.MonkeyPatch, kind: str = "sha256") -> Path:
    """Rename a file after its hash, and let that be the published file of a recipe."""
    published = file.rename(file.with_name(f"{file.stem.rpartition('-')[0]}-{digits(file, kind)}.pth"))
    record = replace(PUBLISHED[recipe], name=published.name, hash_prefix=digits(published, kind))
    patch.setattr(records, "PUBLISHED", {**PUBLISHED, recipe: record})
    return published


def test_names_of_both_sources_are_known(tmp_path):
    (tmp_path / NAME).write_text("<html>")
    with pytest.raises(CheckpointError, match=r"f442d863\.pth is not the published .* must begin with f442d863, got"):
        read_checkpoint(tmp_path / NAME)
    assert PUBLISHED[RECIPE].name == NAME and find_published(NAME) is PUBLISHED[RECIPE]
    segmentor = PUBLISHED["deeplabv3_resnest50-d8_4xb4-paper_ade20k-480x480"]
    assert find_published("deeplab_resnest50_ade-2225f09d.pth") is segmentor
    for name in ("model_final.pth", "resnest50-528c19ca.pth", "f442d863.pth", "x-f442d863.pkl", ""):
        assert find_published(name) is None
    files = [file for file in PUBLISHED.values() if file.hash_prefix]
    assert len(files) == 29 + len(model_zoo.list_trained())
    assert all(find_published(f"copy-{file.hash_prefix}.pth") is file for file in files)


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_every_reader_of_files_holds_them_to_their_hash(tmp_path, monkeypatch, kind):
    torch.save({"conv.weight": torch.rand(2)}, tmp_path / "x-00000000.pth")
    file = publish(tmp_path / "x-00000000.pth", RECIPE, monkeypatch, kind)
    assert read_checkpoint(file).keys() == {"conv.weight"}
    record = records.PUBLISHED[RECIPE]
    assert record.check(file) == kind
    with pytest.raises(CheckpointError):
        replace(record, hash_kinds=tuple({"sha256", "sha1"} - {kind})).check(file)
    assert replace(record, hash_prefix="").check(file) == "", "no hash was published to hold it to"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for changed in (bytes(content), file.read_bytes()[:-1], b""):
        file.write_bytes(changed)
        message = rf"{file} is not the published {file.name}: its sha256 or sha1 must begin with .*, got sha256 "
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(file)
        with pytest.raises(CheckpointError, match="is not the published"):
            load_checkpoint(torch.nn.Linear(2, 2), file)


def test_mmsegmentations_tool_refuses_another_file_of_a_published_name(tmp_path):
    pytest.importorskip("mmseg")
    import test_seg
    from tests.mmseg.helpers import make_label_map_dataset, run_here, write_config

    file = tmp_path / "deeplab_resnest50_ade-2225f09d.pth"
    torch.save({"state_dict": {"conv.weight": torch.rand(2)}}, file)
    root = make_label_map_dataset(tmp_path / "data", splits=["validation"], count=1)
    with pytest.raises(
        SystemExit, match="error: .*ade-2225f09d.pth is not the published file: its sha1 must begin with"
    ):
        run_here(test_seg.run, write_config(tmp_path), file, "--data-root", root, "--work-dir", tmp_path / "work")


# A user's evaluation, with a network as small as can be in the recipe's place.


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory) -> Path:
    """A seeded detector of the recipe's kind in the layout of the published files."""
    pytest.importorskip("detectron2")
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config(RECIPE)
    cfg.merge_from_list([*TINY, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("detector") / "mask_rcnn_ResNeSt_50_FPN_syncBN_1x-00000000.pth"
    torch.save({"model": build_model(cfg).state_dict()}, file)
    return file


@pytest.fixture
def evaluate(smoke_root, tmp_path) -> Callable[..., None]:
    """``tools/train_net.py --eval-only`` in this process, where the records can be changed."""
    pytest.importorskip("detectron2")
    import train_net

    coco = smoke_root / "coco"
    data = ["--val-json", coco / "annotations" / "instances_val2017.json", "--val-images", coco / "val2017"]

    def run(file: Path | str, *keys: object) -> None:
        arguments = ["--eval-only", "--config-file", CONFIG, *data, *TINY, "OUTPUT_DIR", tmp_path / "run"]
        train_net.run([str(word) for word in (*arguments, *keys, "MODEL.WEIGHTS", file)])

    return run


def test_a_published_detector_is_evaluated(detector_file, evaluate, tmp_path, monkeypatch, capfd):
    file = publish(Path(shutil.copy(detector_file, tmp_path)), RECIPE, monkeypatch)
    evaluate(file)
    results = json.loads((tmp_path / "run" / "inference" / "coco_instances_results.json").read_text())
    assert {"bbox", "segmentation", "score"} <= results[0].keys()
    printed = capfd.readouterr().out
    assert f"{file} is the published checkpoint: its sha256 begins with {digits(file)}" in printed
    assert "Evaluation results for segm" in printed


def test_a_file_of_another_network_is_refused(detector_file, evaluate, tmp_path, monkeypatch):
    file = publish(Path(shutil.copy(detector_file, tmp_path)), RECIPE, monkeypatch)
    message = (
        rf"error: {file} does not fit the model's ResNeSt: the file contains resnest14, the model is resnest26; "
        r".* match; \d+ missing \(res2\.1\.conv1\.weight, .* and \d+ more\)"
    )
    with pytest.raises(SystemExit, match=message):
        evaluate(file, "MODEL.RESNETS.DEPTH", 26)
    message = (
        rf"error: {file} does not fit the model of the config: .* \d+ with a different shape \(backbone\.fpn_lateral2"
    )
    with pytest.raises(SystemExit, match=message):
        evaluate(file, "MODEL.FPN.OUT_CHANNELS", 48)


def test_a_trunk_alone_and_none_are_not_evaluated(evaluate, tmp_path):
    torch.save(build("resnest14").state_dict(), tmp_path / "trunk.pth")
    with pytest.raises(SystemExit, match=r"trunk\.pth does not fit the model of the config: .*backbone\.fpn_lateral2"):
        evaluate(tmp_path / "trunk.pth")
    with pytest.raises(SystemExit, match=r"error: MODEL\.WEIGHTS .* must name a checkpoint, got none"):
        evaluate("")
