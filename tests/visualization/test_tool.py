"""``tools/visualize.py`` with models of both frameworks on real datasets."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from resnest_backbones.predict import Predictor
from resnest_backbones.predict.evaluate import average_precision, mean_iou
from visualization.segmentation import compare
from visualize import run

pytest.importorskip("pycocotools")


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page))


def check_page(folder, *, pictures: int, attention: int) -> dict[str, str]:
    page = (folder / "index.html").read_text()
    files = list((folder / "pictures").glob("*.png"))
    assert len(files) == pictures and len(list((folder / "attention").glob("*.png"))) == attention
    assert page.count("data:image/png;base64,") == pictures + attention + 1
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)  # all of it is in the file
    for file in files:
        Image.open(file).verify()
    return facts(page)


def test_a_detector(tmp_path, shared, capsys):
    pytest.importorskip("detectron2")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from tests.detectron2 import helpers
    from tests.helpers import subset_of_coco

    data = shared / "data" / "coco_mini"
    truth = subset_of_coco(data / "annotations" / "instances_val2017.json", tmp_path / "val.json", 3)
    options = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "INPUT.MIN_SIZE_TEST": 160}
    cfg = helpers.resnest_config(helpers.FPN_DETECTOR, options)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(json.loads(truth.read_text())["categories"])
    cfg.MODEL.WEIGHTS = ""
    (tmp_path / "config.yaml").write_text(cfg.dump())
    DetectionCheckpointer(build_model(cfg), str(tmp_path)).save("model")
    model = ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(tmp_path / "model.pth")]
    images = data / "val2017"
    options = ["--val-json", str(truth), "--val-images", str(images), "--min-score", "0", "--pictures", "2"]
    run([*model, *options, "--attention", "1", "--output-dir", str(tmp_path / "out")])
    found = check_page(tmp_path / "out", pictures=2, attention=1)
    want = average_precision(Predictor.from_config(model[1], model[3]), truth, images)
    assert found["AP"] == f"{want['box AP']:.1f}" and found["images"] == "3"
    objects = sum(not one["iscrowd"] for one in json.loads(truth.read_text())["annotations"])
    right = next(int(value) for name, value in found.items() if name.startswith("correct boxes"))
    assert right + int(found["missed objects"]) == objects
    assert "tools/export.py" in capsys.readouterr().out


@pytest.mark.slow
def test_a_segmentor(tmp_path):
    pytest.importorskip("mmseg")
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from tests.mmseg.helpers import make_label_map_dataset, write_config

    data, config = make_label_map_dataset(tmp_path / "data"), write_config(tmp_path, num_classes=3)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict()}, tmp_path / "model.pth")
    images, label_maps = data / "images" / "validation", data / "annotations" / "validation"
    checkpoint, classes = str(tmp_path / "model.pth"), str(data / "classes.txt")
    model = ["--config", str(config), "--checkpoint", checkpoint, "--classes", classes]
    options = ["--val-images", str(images), "--val-label-maps", str(label_maps)]
    run([*model, *options, "--output-dir", str(tmp_path / "out")])
    found = check_page(tmp_path / "out", pictures=4, attention=2)
    for folder in (images, label_maps):  # names of sub-folders may be equal
        first, second = sorted(folder.iterdir())[:2]
        for file, place in ((first, "a"), (second, "b")):
            (folder / place).mkdir()
            file.rename(folder / place / f"same{file.suffix}")
    few = ["--pictures", "4", "--max-images", "4", "--attention", "3", "--output-dir", str(tmp_path / "again")]
    run([*model, *options, *few])
    drawn = {str(file.relative_to(tmp_path / "again")) for file in (tmp_path / "again").rglob("same.png")}
    assert {"pictures/a/same.png", "pictures/b/same.png"} < drawn and len(drawn) == 3, drawn
    want = mean_iou(Predictor.from_config(str(config), checkpoint, classes=classes), images, label_maps)
    assert found["mIoU"] == f"{want['mIoU']:.1f}" and found["aAcc"] == f"{want['aAcc']:.1f}"
    assert np.asarray(Image.open(tmp_path / "out" / "confusion.png")).std() > 10


def test_the_background_stays_grey():
    image = np.full((480, 480, 3), 100, dtype=np.uint8)
    truth, found = np.zeros((2, 480, 480), dtype=np.int64)
    truth[:100, :100] = found[200:300] = 1
    panels = compare(image, truth, found, ["background", "thing"], [[9, 9, 9], [242, 36, 36]])
    assert [title for _, title in panels][1:3] == ["ground truth", "prediction"]
    for (drawn, _), colored in zip(panels[1:], (truth == 1, found == 1, found == 1, truth == 1), strict=True):
        assert ((drawn != drawn[..., :1]).any(axis=-1) == colored).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "a", "--val-json", "."], "--config needs --checkpoint"),
        (["--model", "a"], "one of the arguments --val-json --val-label-maps is required"),
        (["--model", "a", "--val-json", "none.json"], "none.json does not exist"),
        (["--model", "a", "--val-json", ".", "--min-iou", "2"], "--min-iou must be from 0 to 1, got 2.0"),
        (["--model", "a", "--val-json", ".", "--max-images", "0"], "--max-images must be 1 or more, got 0"),
    ],
)
def test_options_that_do_not_hold_together_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        run(["--val-images", ".", *options])
    assert message in capsys.readouterr().err
