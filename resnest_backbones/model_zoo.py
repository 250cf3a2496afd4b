"""Names of packaged recipes -> their config files and published figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """What was published of a recipe.

    Attributes:
        name: of the config file, without its ending.
        box_ap: box AP on COCO val2017 in percent.
        source: where it was published.
    """

    name: str
    box_ap: float
    source: str = "github.com/zhanghang1989/ResNeSt d2/README.md"


_ROWS = (
    Recipe("faster_rcnn_resnest50_fpn_1x", box_ap=42.33),
    Recipe("faster_rcnn_resnest101_fpn_1x", box_ap=44.72),
)

RECIPES: dict[str, Recipe] = {row.name: row for row in _ROWS}


def config_root() -> Path:
    """The folder that holds ``detectron2/`` and ``mmseg/`` configs: in the installed package or in the checkout."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


def get_config_file(name: str) -> str:
    """The path of a packaged config by its short name, such as ``faster_rcnn_resnest50_fpn_1x``.

    >>> get_config_file("faster_rcnn_resnest50_fpn_1x").endswith("coco_detection/faster_rcnn_resnest50_fpn_1x.yaml")
    True

    Raises:
        ValueError: no packaged config has that name; the message lists those there are.
    """
    files = {file.stem: file for file in sorted(config_root().rglob("*.yaml")) if file.parent.name != "_base_"}
    if name not in files:
        raise ValueError(f"name must be one of {', '.join(files)}, got {name!r}")
    return str(files[name])
