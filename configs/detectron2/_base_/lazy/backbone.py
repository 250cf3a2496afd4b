# ResNeSt-50, and what goes with it into a model of Detectron2's.
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from resnest_backbones.detectron2 import ResNeSt
from resnest_backbones.weights import DETECTOR_PIXELS

bottom_up = L(ResNeSt)(spec="resnest50", norm="SyncBN", freeze_at=2, out_features=["res2", "res3", "res4", "res5"])
pixels = OmegaConf.create(
    dict(
        pixel_mean=list(DETECTOR_PIXELS.mean),
        pixel_std=list(DETECTOR_PIXELS.std),
        input_format=DETECTOR_PIXELS.channel_order,
    )
)
