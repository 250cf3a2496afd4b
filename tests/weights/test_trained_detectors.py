"""MMDetection's detectors by name in Detectron2: loaded, shown a photo, and fine-tuned on other classes."""

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.utils.file_io import PathManager

import demo
import resnest_backbones as rb
import train_net
from resnest_backbones import convert_state_dict, model_zoo
from tests.helpers import odd_image, publishing, subset_of_coco
from tests.weights.helpers import Trained, mmcv_content

DETECTOR = "faster_rcnn_resnest50_fpn_1x_mmdet"


@pytest.fixture(scope="module")
def detector(shared, seeded_weights, tmp_path_factory) -> Iterator[Trained]:
    """A server of a seeded detector in MMDetection's layout."""
    golden = json.loads((shared / "reference" / "golden" / "mmdet_faster_rcnn_s50.json").read_text())
    state = {key: value.float() for key, value in seeded_weights.seeded_state_dict(golden["state_dict"]).items()}
    classes, folder = tuple(f"thing {number}" for number in range(80)), tmp_path_factory.mktemp("published")
    with (
        pytest.MonkeyPatch.context() as patch,
        publishing(DETECTOR, mmcv_content(state, classes), folder, patch) as server,
    ):
        yield Trained(server, convert_state_dict(state, "detectron2"), classes)


def test_a_name_gives_a_trained_detector_wherever_weights_are_named(detector):
    model = model_zoo.get(DETECTOR, trained=True)
    own = {key: value.cpu() for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert [key for key, value in own.items() if not value.equal(detector.state[key])] == []
    report = rb.load_checkpoint(rb.build("resnest50"), f"resnest://{DETECTOR}")
    assert report.layout == "mmdet" and "roi_head.bbox_head.fc_cls.weight" in report.unused
    with PathManager.open(f"resnest://{DETECTOR}", "rb") as stream:  # what any Detectron2 project reads
        content = torch.load(stream, weights_only=True)
    assert content["model"].keys() == detector.state.keys() and content["meta"]["CLASSES"] == detector.classes
    assert len(detector.server.requests) == 1


@pytest.mark.slow
def test_a_photo_needs_the_name_of_a_recipe_only(detector, tmp_path):
    """The names of the classes are the file's own."""
    photo, width, height = odd_image("plain", tmp_path)
    options = ["INPUT.MIN_SIZE_TEST=64", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "TEST.DETECTIONS_PER_IMAGE=5"]
    arguments = ["--model", DETECTOR, str(photo), "--output-dir", str(tmp_path / "out"), "--min-score", "0"]
    demo.run([*arguments, "--opts", *options])
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found["classes"][:2] == ["thing 0", "thing 1"]
    assert (found["model"], found["checkpoint"]) == (DETECTOR, f"resnest://{DETECTOR}")
    (image,) = found["images"]
    assert (image["height"], image["width"]) == (height, width) and len(image["detections"]) == 5
    assert (tmp_path / "out" / "drawn" / "plain.png").is_file()


@pytest.mark.slow
def test_it_is_fine_tuned_on_other_classes(detector, shared, tmp_path):
    data, arguments = shared / "data" / "bccd", []
    if not data.is_dir():
        pytest.skip(f"{data} is not there")
    for split in ("train", "val"):
        file = subset_of_coco(data / "annotations" / f"instances_{split}.json", tmp_path / f"{split}.json", 2)
        arguments += [f"--{split}-json", str(file), f"--{split}-images", str(data / "images")]
    keys = {
        "MODEL.WEIGHTS": f"resnest://{DETECTOR}", "MODEL.DEVICE": "cpu", "OUTPUT_DIR": tmp_path / "out",
        "INPUT.MIN_SIZE_TRAIN": "(96,96)", "INPUT.MIN_SIZE_TEST": 96, "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "SOLVER.IMS_PER_BATCH": 2, "SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "(100,)", "SOLVER.BASE_LR": 1e-6,
        "DATALOADER.NUM_WORKERS": 0, "TEST.PRECISE_BN.NUM_ITER": 2,
    }  # fmt: skip
    config = model_zoo.get_config_file(DETECTOR)
    words = [str(word) for pair in keys.items() for word in pair]
    train_net.run(["--config-file", config, *arguments, *words])
    log = (tmp_path / "out" / "log.txt").read_text()
    total = sum(not key.endswith("num_batches_tracked") for key in detector.state)
    lines = [
        line for line in log.splitlines() if f"{total - 4} of {total} tensors match; 4 with a different shape" in line
    ]
    assert len(lines) == 1 and "roi_heads.box_predictor.cls_score.weight is (81, 1024)" in lines[0]
    assert "Skip loading" not in log and "not found in the checkpoint" not in log
    trained = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert trained["roi_heads.box_predictor.cls_score.weight"].shape == (4, 1024)
    frozen, moved = "backbone.bottom_up.res2.0.conv1.weight", "roi_heads.box_head.fc1.weight"
    assert trained[frozen].allclose(detector.state[frozen]) and not trained[moved].equal(detector.state[moved])
    assert trained[moved].allclose(detector.state[moved], atol=1e-3), "it starts from the file"
