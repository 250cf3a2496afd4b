"""MMDetection's own detectors on ResNeSt, trained and evaluated: ``make test-mmdet``, which compiles operators."""

import pytest

try:
    import mmcv.ops  # noqa: F401
    import mmdet
except ImportError as error:
    pytest.skip(
        f"MMDetection and mmcv's operators are in the environment of make test-mmdet: {error}", allow_module_level=True
    )

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from resnest_backbones import build, convert_state_dict

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
DETECTORS = {
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": {"bbox"},
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py": {"bbox", "segm"},
    "retinanet/retinanet_r50_fpn_1x_coco.py": {"bbox"},
}
CLASSES = ("square", "bar")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve grey images with a bright square and a dark bar each, in COCO's format."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(1, 13):
        pixels = np.full((96, 128, 3), 128, np.uint8)
        for label, (width, height, value) in enumerate(((32, 32, 250), (48, 16, 10)), start=1):
            x, y = int(generator.integers(4, 124 - width)), 6 + 48 * (label - 1)
            pixels[y : y + height, x : x + width] = value
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, "category_id": label}
            outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "segmentation": outline, **box})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(content))
    return folder


def change(node: object, data: Path) -> None:
    """Let every dataset, evaluator, image size and head below a part of a config be those of the data."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        change(value, data)
    if not isinstance(node, dict):
        return
    if node.get("type") == "CocoDataset":
        node.update(data_root=str(data), ann_file="data.json", data_prefix={"img": "images"})
        node["metainfo"] = {"classes": CLASSES}
    if node.get("type") == "CocoMetric":
        node["ann_file"] = str(data / "data.json")
    if node.get("type") == "Resize":
        node["scale"] = (128, 96)
    if "num_classes" in node:
        node["num_classes"] = len(CLASSES)
    if "score_thr" in node:
        node["score_thr"] = 0.0  # a dozen iterations make no network sure
    if "num_workers" in node:
        node.update(num_workers=0, persistent_workers=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("file", DETECTORS)
def test_a_detector_trains_and_evaluates(file, data, tmp_path):
    torch.manual_seed(0)
    trunk = build("resnest14", num_classes=2)
    torch.save(convert_state_dict(trunk.state_dict(), "official"), tmp_path / "weights.pth")
    imports = "custom_imports = dict(imports=['resnest_backbones.mmseg'])"
    (tmp_path / "config.py").write_text(f"_base_ = '{CONFIGS / file}'\n{imports}\n")
    cfg = Config.fromfile(tmp_path / "config.py")
    cfg.model.backbone = {
        "type": "ResNeStBackbone",
        "name": "resnest14",
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "init_cfg": {"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")},
    }
    for part in ("model", "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        change(cfg[part], data)
    cfg.merge_from_dict({"train_cfg.max_epochs": 2, "train_cfg.val_interval": 2, "work_dir": str(tmp_path / "out")})
    cfg.merge_from_dict(
        {"optim_wrapper.optimizer.lr": 0.002, "default_hooks.logger.interval": 1, "param_scheduler": []}
    )
    cfg.randomness = {"seed": 0}
    cfg.visualizer.name = tmp_path.name  # MMEngine keeps one of each name, with its folder
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    assert torch.equal(runner.model.backbone.res2[0].conv1.weight, trunk.res2[0].conv1.weight)
    runner.train()
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    assert len(losses) == 12 and np.isfinite(losses).all() and losses[-3:].mean() < losses[:3].mean()
    metrics = runner.message_hub.log_scalars
    for kind in DETECTORS[file]:
        for name in ("mAP", "mAP_50"):
            assert 0 <= metrics[f"val/coco/{kind}_{name}"].current() <= 1
