"""Trainings of both frameworks show predictions in TensorBoard."""

import numpy as np
import pytest
import torch

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def images_of(folder) -> dict[str, list[int]]:
    """Names of the images in the events below a folder -> the iterations that they are of."""
    found: dict[str, list[int]] = {}
    for file in folder.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
        for tag in events.Tags()["images"]:
            found.setdefault(tag, []).extend(image.step for image in events.Images(tag))
            assert events.Images(tag)[0].width > 16
    return found


def test_detectron2_draws_predictions_every_so_many_iterations(tmp_path):
    pytest.importorskip("detectron2")
    from tests.detectron2.test_faults import run, write_coco

    data = write_coco(tmp_path / "data", ["plain", "odd size"])
    run(data, tmp_path / "run", 3, VIS_PERIOD=2)
    found = images_of(tmp_path / "run")
    drawn = {name: steps for name, steps in found.items() if name.startswith("prediction_")}
    assert drawn == {"prediction_0": [1, 2], "prediction_1": [1, 2]}  # the end of the training, too


@pytest.mark.parametrize("kind", ["instances", "panoptic_seg", "sem_seg"])
def test_detectron2s_outputs_are_drawn(kind):
    pytest.importorskip("detectron2")
    from detectron2.data import Metadata
    from detectron2.structures import Boxes, Instances

    from resnest_backbones.detectron2.engine.hooks import draw_output

    grey = (9, 9, 9)
    metadata = Metadata(thing_classes=["a"], stuff_classes=["b", "c"], thing_colors=[grey], stuff_colors=[grey] * 2)
    instances = Instances((40, 60))
    instances.pred_boxes, instances.scores = Boxes(torch.tensor([[5.0, 5.0, 30.0, 30.0]])), torch.tensor([0.9])
    instances.pred_classes = torch.tensor([0])
    segments = [{"id": 1, "isthing": False, "category_id": 1, "area": 2400}]
    found = {
        "instances": {"instances": instances},
        "panoptic_seg": {"panoptic_seg": (torch.ones(40, 60, dtype=torch.int32), segments), "instances": instances},
        "sem_seg": {"sem_seg": torch.rand(2, 40, 60)},
    }[kind]
    image = np.full((40, 60, 3), 255, dtype=np.uint8)
    drawn = draw_output(image, found, metadata)
    assert drawn.shape == (40, 60, 3) and (drawn != image).any()


@pytest.mark.slow
def test_mmsegmentation_draws_validation_images(tmp_path):
    pytest.importorskip("mmseg")
    import train_seg
    from tests.mmseg.helpers import make_label_map_dataset, run_here, write_config

    data, config = make_label_map_dataset(tmp_path / "data"), write_config(tmp_path)
    run_here(train_seg.run, config, "--data-root", data, "--work-dir", tmp_path / "run", "--tensorboard", 2)
    found = images_of(tmp_path / "run")
    assert found and all(name.startswith("val_") for name in found)
    with pytest.raises(SystemExit, match="--tensorboard must be 1 or more, got 0"):
        run_here(train_seg.run, config, "--data-root", data, "--work-dir", tmp_path / "no", "--tensorboard", 0)
