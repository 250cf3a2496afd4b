"""Published files: a record of each, and the resolver of ``resnest://NAME`` that all plugins share."""

from resnest_backbones.weights.download import default_cache_dir, fetch, fetch_url
from resnest_backbones.weights.records import (
    DETECTOR_PIXELS,
    MIRROR_VARIABLE,
    PUBLISHED,
    SCHEME,
    WEIGHTS,
    PixelNormalization,
    PublishedFile,
    Record,
    WeightRecord,
    find_published,
    get_record,
)

__all__ = [
    "DETECTOR_PIXELS",
    "MIRROR_VARIABLE",
    "PUBLISHED",
    "SCHEME",
    "WEIGHTS",
    "PixelNormalization",
    "PublishedFile",
    "Record",
    "WeightRecord",
    "default_cache_dir",
    "fetch",
    "fetch_url",
    "find_published",
    "get_record",
]
