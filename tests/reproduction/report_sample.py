"""What runs leave, written by the writers of the tools and of the frameworks, for the tests of the report."""

import math
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.events import EventStorage, JSONWriter
from mmengine.visualization import LocalVisBackend

from reproduction.run import Run, Step

WITHIN = "faster_rcnn_resnest50_fpn_1x"
BELOW = "mask_rcnn_resnest50_fpn_1x"
ABOVE = "cascade_rcnn_resnest50_fpn_1x"
RUNNING = "mask_cascade_rcnn_resnest200_dcnv2_fpn_3x_all_tricks"
FAILED = "faster_rcnn_resnest101_fpn_1x"
BROKEN = "mask_rcnn_resnest101_fpn_1x"
MMSEG = "deeplabv3plus_resnest101-d8_4xb4-160k_ade20k-512x512"
SMOKE = "fcn_resnest50-d8_4xb4-paper_ade20k-480x480"
ERROR = 'RuntimeError: <script>alert("x")</script> & | `torch` is not there'


def write_run(root: Path, recipe: str, state: str = "finished", **changes) -> Run:
    """``run.json`` and a log, as a run writes them."""
    fields = {
        "smoke": False,
        "command": f"python tools/reproduce.py run {recipe} --num-gpus 8",
        "settings": [],
        "eval_only": "",
        "machine": "8 x NVIDIA A100",
        "versions": {"python": "3.11.2", "torch": "2.8.0"},
        "started": "2026-01-01T08:00:00+00:00",
        "ended": "" if state == "running" else "2026-01-01T20:13:05+00:00",
        "steps": [Step("train", f"torchrun tools/train.py {recipe}", 43985.2, 0)],
    }
    run = Run(recipe=recipe, state=state, **{**fields, **changes})
    (root / recipe).mkdir(parents=True, exist_ok=True)
    run.write(root / recipe)
    (root / recipe / "log.txt").write_text("what the commands printed\n")
    return run


def write_detectron2(
    root: Path, recipe: str, iterations: range, evaluations: Sequence[int] = (), keys: Sequence[str] = ("bbox/AP",)
) -> Path:
    """Detectron2's ``metrics.json``."""
    folder = root / recipe / "train"
    folder.mkdir(parents=True, exist_ok=True)
    writer = JSONWriter(str(folder / "metrics.json"))
    with EventStorage(0) as storage:
        for iteration in iterations:
            storage.iter = iteration
            storage.put_scalars(total_loss=0.5 + 2 * math.exp(-iteration / 4000), loss_cls=0.1, time=0.3)
            if iteration in evaluations:
                metrics = {key: 40.0 - 5 * index - 20 * math.exp(-iteration / 15000) for index, key in enumerate(keys)}
                storage.put_scalars(smoothing_hint=False, **metrics)
            writer.write()
    writer.close()
    return folder / "metrics.json"


def write_mmengine(
    root: Path, recipe: str, iterations: range, validations: Sequence[int] = (), start: str = "20260101_000000"
) -> None:
    """MMEngine's ``scalars.json`` of a start of a training by iterations."""
    folder = root / recipe / "train" / start / "vis_data"
    backend = LocalVisBackend(save_dir=str(folder))
    for iteration in iterations:
        backend.add_scalars({"lr": 0.01, "loss": 0.4 + 2 * math.exp(-iteration / 9000), "iter": iteration}, iteration)
        if iteration in validations:
            backend.add_scalars({"aAcc": 80.0, "mIoU": 46.0 - 20 * math.exp(-iteration / 30000)}, iteration)


def write_sample(root: Path) -> None:
    """Runs of every state."""
    every, evaluated = range(499, 90000, 500), range(4999, 90000, 5000)
    write_detectron2(root, WITHIN, every, evaluated)
    write_run(root, WITHIN, metrics={"box_ap": 42.41})
    write_detectron2(root, BELOW, every, evaluated, ("bbox/AP", "segm/AP"))
    write_run(root, BELOW, metrics={"box_ap": 43.25, "mask_ap": 37.6})
    write_run(root, ABOVE, metrics={"box_ap": 46.02})
    metrics = write_detectron2(root, RUNNING, range(499, 20000, 500), evaluated)
    with open(metrics, "a") as stream:
        stream.write('{"iteration": 20499, "total_lo')  # killed there
    write_run(root, RUNNING, "running", steps=[])
    write_run(root, FAILED, "failed", error=ERROR, steps=[Step("train", "torchrun tools/train.py", 12.1, 1)])
    (root / BROKEN).mkdir()
    (root / BROKEN / "run.json").write_text('{"recipe": "mask')
    write_mmengine(root, MMSEG, range(500, 160001, 500), range(16000, 160001, 16000))
    write_run(root, MMSEG, metrics={"miou": 46.1, "miou_multi_scale": 46.9})
    write_mmengine(root, SMOKE, range(1, 5), [4])
    write_run(root, SMOKE, smoke=True, metrics={"miou_multi_scale": 1.23, "pix_acc_multi_scale": None})
