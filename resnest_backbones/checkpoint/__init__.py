"""Files and layouts: reading without running code, renaming both ways, filling a trunk, writing atomically."""

from resnest_backbones.checkpoint.contents import extract_state_dict
from resnest_backbones.checkpoint.describe import describe_file
from resnest_backbones.checkpoint.files import (
    LoadReport,
    SaveError,
    build,
    convert_file,
    for_detectron2,
    load_checkpoint,
    read_checkpoint,
    remove_unfinished,
    save_atomically,
    set_aside,
    write_atomically,
)
from resnest_backbones.checkpoint.layouts import convert_state_dict, detect_layout
from resnest_backbones.choices import TARGETS
from resnest_backbones.errors import CheckpointError

__all__ = [
    "TARGETS",
    "CheckpointError",
    "LoadReport",
    "SaveError",
    "build",
    "convert_file",
    "convert_state_dict",
    "describe_file",
    "detect_layout",
    "extract_state_dict",
    "for_detectron2",
    "load_checkpoint",
    "read_checkpoint",
    "remove_unfinished",
    "set_aside",
    "save_atomically",
    "write_atomically",
]
