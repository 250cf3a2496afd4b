"""Names of packaged recipes -> their config files."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


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
    files = {file.stem: file for file in sorted(config_root().rglob("*.yaml")) if not file.name.startswith("_")}
    if name not in files:
        raise ValueError(f"name must be one of {', '.join(files)}, got {name!r}")
    return str(files[name])
