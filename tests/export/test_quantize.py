"""int8 of an exported file: it still finds most of what it found, and the tool measures what is lost."""

import json

import numpy as np
import pytest

pytest.importorskip("detectron2")
pytest.importorskip("onnxruntime")

import onnx
from PIL import Image

from quantize import run
from resnest_backbones import build
from resnest_backbones.choices import RUNTIMES
from resnest_backbones.data import read_image
from resnest_backbones.errors import DatasetError, ExportError
from resnest_backbones.export import export_backbone, load, save
from resnest_backbones.export.detectors import export_detector
from resnest_backbones.predict import Predictor
from resnest_backbones.predict.evaluate import average_precision
from tests.export.test_detectors import random_detector
from tests.helpers import error_of

CLASSES = ["cat", "dog", "cow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported detector, three images, and what it finds in them as their truth."""
    root = tmp_path_factory.mktemp("int8")
    facts = {"channel_order": "RGB", "resize": {"shortest": 96, "longest": 128}, "classes": CLASSES}
    save(export_detector(random_detector("faster"), (96, 96), metadata=facts), "onnx", root / "model.onnx")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((128, 96), Image.Resampling.BICUBIC).save(root / "images" / f"{number}.png")
    write_truth(root, Predictor.from_file(root / "model.onnx"))
    return root


def write_truth(root, predictor) -> None:
    images, annotations = [], []
    for number in range(3):
        found = predictor(read_image(root / "images" / f"{number}.png"))
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        for box, label in zip(found.boxes.tolist(), found.classes.tolist(), strict=True):
            sides = [box[2] - box[0], box[3] - box[1]]
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": 10 * label + 5, "iscrowd": 0}
            annotations.append({**annotation, "bbox": [*box[:2], *sides], "area": sides[0] * sides[1]})
    categories = [{"id": 10 * label + 5, "name": name} for label, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (root / "truth.json").write_text(json.dumps(content))


def test_int8_is_smaller_and_finds_most_of_what_was_found(folder, tmp_path, capsys):
    model, images, truth = (str(folder / name) for name in ("model.onnx", "images", "truth.json"))
    metrics = ("--val-json", truth, "--val-images", images)
    run([model, images, "--output", str(tmp_path / "small.onnx"), *metrics, "--keep", "box_predictor"])
    printed = capsys.readouterr().out.splitlines()
    nodes = [node.name for node in onnx.load(folder / "model.onnx").graph.node if node.op_type in ("Conv", "Gemm")]
    kept = [name for name in nodes if "box_predictor" in name]
    written = onnx.load(tmp_path / "small.onnx").graph
    dequantized = {node.output[0] for node in written.node if node.op_type == "DequantizeLinear"}
    assert len(kept) == 2
    assert not [node for node in written.node if node.name in kept and node.input[1] in dequantized]
    assert printed[0] == (f"{tmp_path / 'small.onnx'}: {len(nodes) - 2} operators in int8, calibrated on 3 images")
    before, after = ((file.stat().st_size) for file in (folder / "model.onnx", tmp_path / "small.onnx"))
    assert after < 0.35 * before
    metrics = {line.split()[1]: [float(x) for x in line.split()[2:]] for line in printed if line.startswith("  box")}
    assert metrics["AP50"][0] > 99 and 30 < metrics["AP50"][1] <= 100
    assert metrics["AP50"][2] == pytest.approx(metrics["AP50"][1] - metrics["AP50"][0], abs=0.011)
    metadata = load(tmp_path / "small.onnx").metadata
    assert metadata["int8"] == {"method": "minmax", "images": 3, "kept": ["box_predictor"]}
    assert metadata["classes"] == CLASSES
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_openvino_finds_what_onnx_runtime_finds(folder, tmp_path):
    pytest.importorskip("openvino")
    file = folder / "model.onnx"
    for image in sorted((folder / "images").iterdir()):
        wanted, found = (Predictor.from_file(file, runtime=name)(read_image(image)) for name in RUNTIMES)
        assert len(found.scores) > 20 and found.names == wanted.names
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
    with pytest.raises(ExportError, match="runtime must be one of onnxruntime, openvino, got tensorrt"):
        load(file, runtime="tensorrt")
    (tmp_path / "a.torchscript").touch()
    with pytest.raises(ExportError, match="openvino runs ONNX files, got .*a.torchscript"):
        load(tmp_path / "a.torchscript", runtime="openvino")


def test_ap_falls_with_wrong_boxes_and_needs_the_same_classes(folder, tmp_path):
    predictor = Predictor.from_file(folder / "model.onnx")
    assert average_precision(predictor, folder / "truth.json", folder / "images")["box AP"] > 99
    content = json.loads((folder / "truth.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 2, 2]
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    assert average_precision(predictor, tmp_path / "wrong.json", folder / "images")["box AP"] == 0
    popped = content["categories"].pop()["id"]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != popped]
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"different classes than the model: 3 \(.*\) in the model, 2 \("):
        average_precision(predictor, tmp_path / "wrong.json", folder / "images")


def test_mistakes_are_told_in_one_line(folder, tmp_path, capsys):
    (tmp_path / "a.torchscript").touch()
    model, images = folder / "model.onnx", folder / "images"
    for arguments, message in (
        ([tmp_path / "a.torchscript", images], "int8 needs ONNX files, named"),
        ([tmp_path / "no.onnx", images], "no.onnx does not exist"),
        ([model, tmp_path / "nothing"], "nothing does not exist"),
        ([model, images, "--keep", "head_of_cabbage"], "no node to quantize has 'head_of_cabbage' in its name"),
        ([model, images, "--output", model], "--output must not be"),
    ):
        assert message in error_of(run, *arguments)
    with pytest.raises(SystemExit) as status:
        run([str(model), str(images), "--val-images", str(images)])
    assert status.value.code == 2 and "--val-images requires --val-json" in capsys.readouterr().err


def test_what_openvino_cannot_run_is_named_in_one_line(tmp_path):
    pytest.importorskip("openvino")
    save(
        export_backbone(build("resnest14", deform_stages=("res5",), out_features=("res5",))),
        "onnx",
        tmp_path / "a.onnx",
    )
    with pytest.raises(ExportError, match=r"OpenVINO \d+\.\d+\.\d+ cannot run .*a\.onnx: .*DeformConv") as raised:
        load(tmp_path / "a.onnx", runtime="openvino")
    assert "\n" not in str(raised.value)
