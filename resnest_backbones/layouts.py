"""The former place of ``resnest_backbones.checkpoint.detect_layout``."""

from resnest_backbones.checkpoint.layouts import detect_layout as detect_layout
