"""Small things that several test files share."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Keys that shrink a recipe's detector until one iteration on a CPU takes about a second; the network stays a ResNeSt
# with FPN, RPN and the recipe's heads.
_TINY_KEYS = {
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 14,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,  # after few iterations, scores are low
    "INPUT.MIN_SIZE_TRAIN": "(96,128)",
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": "(100,)",
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
TINY_DETECTOR = [str(word) for pair in _TINY_KEYS.items() for word in pair]


def subset_of_coco(source: Path, target: Path, num_images: int) -> Path:
    """Write a COCO json with the first images of another that have at least two annotations."""
    content = json.loads(source.read_text())
    counts = {image["id"]: 0 for image in content["images"]}
    for annotation in content["annotations"]:
        counts[annotation["image_id"]] += 1
    images = [image for image in content["images"] if counts[image["id"]] >= 2][:num_images]
    kept = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in kept]
    target.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    return target


def environment() -> dict[str, str]:
    """The environment of a subprocess that runs a tool of this checkout, on one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def start_tool(name: str, *arguments: object, **options: object) -> subprocess.Popen:
    """Start ``tools/NAME.py`` in a process of its own."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **options
    )


def run_tool(name: str, *arguments: object, timeout: float = 300) -> tuple[int, str]:
    """Run ``tools/NAME.py``; its exit status, and all that it printed."""
    process = start_tool(name, *arguments)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output
