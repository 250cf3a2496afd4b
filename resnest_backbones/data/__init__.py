"""What a dataset's files hold: one reader of each, for training, testing, prediction and export alike.

``resnest_backbones.data.coco`` reads COCO's json; it needs pycocotools, and is imported where that is.
"""

from resnest_backbones.data.classes import find_class_file, read_classes
from resnest_backbones.data.images import IMAGE_SUFFIXES, files_below, read_image
from resnest_backbones.data.label_maps import check_label_maps, pair_label_maps, read_label_map
from resnest_backbones.data.palette import make_palette, palette_of
from resnest_backbones.data.seeds import derive_seed

__all__ = [
    "IMAGE_SUFFIXES",
    "check_label_maps",
    "derive_seed",
    "files_below",
    "find_class_file",
    "make_palette",
    "pair_label_maps",
    "palette_of",
    "read_classes",
    "read_image",
    "read_label_map",
]
