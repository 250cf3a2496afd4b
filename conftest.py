"""What pytest collects: the doctests of a plugin only where its framework is installed."""

from importlib.util import find_spec

FRAMEWORKS = {
    "resnest_backbones/detectron2": ["detectron2"],
    "resnest_backbones/mmseg": ["mmengine", "mmcv", "mmseg"],
}

collect_ignore = [plugin for plugin, modules in FRAMEWORKS.items() if any(find_spec(name) is None for name in modules)]
