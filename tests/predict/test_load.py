"""A trained model is found by the folder of its training, by a recipe's name, or as an exported file."""

import numpy as np
import pytest
import torch

from resnest_backbones.errors import ConfigError
from resnest_backbones.outputs import find_training
from resnest_backbones.predict import Predictor, load

NAMES = ["cat", "dog", "bird"]
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_the_output_folder_of_detectron2_gives_boxes_with_names(tmp_path):
    pytest.importorskip("detectron2")
    from tests.detectron2.helpers import FPN_DETECTOR, resnest_config
    from tests.export.test_detectors import SURE, random_detector

    cfg = resnest_config(FPN_DETECTOR, SURE, {"INPUT.MIN_SIZE_TEST": 64})
    state = random_detector("faster").state_dict()
    torch.save({"model": state, "meta": {"CLASSES": NAMES}}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    found = load(tmp_path, device="cpu")(IMAGE)
    assert len(found.boxes) and [*found.names] == [NAMES[i] for i in found.classes]


def test_the_work_dir_of_mmsegmentation_gives_a_label_map_of_its_last_checkpoint(tmp_path):
    pytest.importorskip("mmseg")
    import resnest_backbones.mmseg  # noqa: F401  (what it registers is to outlast the test)
    from resnest_backbones.export.models import build_model
    from tests.mmseg.helpers import as_in_a_new_process, write_config

    with as_in_a_new_process():
        config = write_config(tmp_path, num_classes=3)
        (tmp_path / "classes.txt").write_text("red\ngreen\nblue\n")
        state = build_model(str(config), None, classes=str(tmp_path / "classes.txt")).model.state_dict()
        meta = {"dataset_meta": {"classes": ("red", "green", "blue")}}
        torch.save({"state_dict": state, "meta": meta}, tmp_path / "iter_2.pth")
        (tmp_path / "last_checkpoint").write_text("/where/it/was/trained/iter_2.pth")
        found = load(tmp_path, device="cpu")(IMAGE)
    assert found.labels.shape == IMAGE.shape[:2] and [*found.names] == ["red", "green", "blue"]


def test_a_recipe_takes_its_published_file(monkeypatch):
    asked = []
    monkeypatch.setattr(Predictor, "from_config", lambda *args, **options: asked.append((args, options)))
    load("faster_rcnn_resnest50_fpn_1x_mmdet", device="cpu", options=["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.5"])
    (((config, checkpoint), options),) = asked
    assert checkpoint == f"resnest://{config}" and options["options"] == ["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.5"]


def test_what_is_no_model_is_named_with_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match="got faster_rcnn_resnest5_fpn_1x_mmdet; did you mean faster_rcnn_resnest50"):
        load("faster_rcnn_resnest5_fpn_1x_mmdet")
    with pytest.raises(ConfigError, match="must contain config.yaml or one Python config, found 0"):
        find_training(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="contains no training checkpoint, such as model_final.pth"):
        find_training(tmp_path)
