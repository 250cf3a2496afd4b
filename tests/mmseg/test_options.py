"""Options that change nothing are refused, with the key that was meant."""

import pytest

pytest.importorskip("mmseg")

import resnest_backbones.mmseg  # noqa: F401  (registers the types)
from resnest_backbones import model_zoo
from resnest_backbones.errors import ConfigError
from resnest_backbones.mmseg.config import load_config

CONFIG = model_zoo.get_config_file("deeplabv3_resnest50-d8_4xb4-160k_ade20k-512x512")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle.backbone.name", "a config has no 'modle'; did you mean model?"),
        ("nonsense", "a config has no 'nonsense'; nothing reads it"),
        ("train_cfg.max_iterz", "train_cfg has no 'max_iterz'; did you mean max_iters"),
        ("train_cfg.nonsense", "train_cfg has no 'nonsense'; it may have "),
        ("model.backbone.output_strides", "model.backbone has no 'output_strides'; did you mean output_stride"),
        ("param_scheduler.7.end", "param_scheduler has 1 entries, got '7'"),
        ("param_scheduler.begin", "param_scheduler has 1 entries, got 'begin'"),
        ("crop_size", "is a variable of the config file, .*; set model.data_preprocessor.size, train_dataloader"),
        ("data_preprocessor.size", "is a variable of the config file, .*; set model.data_preprocessor.size instead"),
    ],
)
def test_a_key_that_changes_nothing_is_refused(key, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(CONFIG, [f"{key}=1"])
    assert str(raised.value).startswith(f"the setting {key}")


@pytest.mark.parametrize(
    "key",
    [
        "randomness.seed",
        "auto_scale_lr.enable",
        "train_dataloader.dataset.indices",
        "model.backbone.compile",
        "optim_wrapper.accumulative_counts",
        "optim_wrapper.optimizer.nesterov",
        "param_scheduler.0.end",
        "default_hooks.checkpoint.save_best",
        "val_evaluator.iou_metrics",
        "env_cfg.dist_cfg.timeout",
        "model.init_cfg.checkpoint",
    ],
)
def test_what_is_configured_may_be_set(key):
    cfg = load_config(CONFIG, [f"{key}=7"])
    for part in key.split("."):
        cfg = cfg[int(part) if part.isdigit() else part]
    assert cfg == 7
