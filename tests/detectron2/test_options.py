"""Settings of the command line that have no effect or no sense are refused in one line, with the nearest key."""

import pytest

pytest.importorskip("detectron2")

from resnest_backbones import model_zoo
from resnest_backbones.detectron2.engine.run_setup import check_sizes, device_or_cpu
from resnest_backbones.detectron2.options import load_lazy_config, load_yaml_config, name_nearest
from resnest_backbones.errors import ConfigError, config_errors

YAML = model_zoo.get_config_file("faster_rcnn_resnest50_fpn_1x")
LAZY = model_zoo.get_config_file("faster_rcnn_resnest50_fpn_1x_lazy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.BASE_LRR", "1"], "no key 'SOLVER.BASE_LRR'; did you mean SOLVER.BASE_LR"),
        (["SOLVERR.BASE_LR", "1"], "no key 'SOLVERR.BASE_LR'; did you mean SOLVER.BASE_LR"),
        (["solver.max_iter", "1"], "did you mean SOLVER.MAX_ITER"),
        (["MAX_ITER", "1"], "no key 'MAX_ITER'; did you mean SOLVER.MAX_ITER"),
        (["MODEL.RESNETS.RADIXX", "1"], "did you mean MODEL.RESNETS.RADIX"),
        (["NONSENSE", "1"], "no key 'NONSENSE'; config.yaml of a run has all keys"),
        (["SOLVER", "1"], "SOLVER is a group of keys, such as SOLVER."),
        (["SOLVER.MAX_ITER"], "pairs, and SOLVER.MAX_ITER has no value"),
        (["SOLVER.MAX_ITER", "SOLVER.BASE_LR", "1"], "pairs, and SOLVER.MAX_ITER has no value"),
        (["SEED", "1", "SOLVER.MAX_ITER=5"], "KEY VALUE: SOLVER.MAX_ITER 5, got SOLVER.MAX_ITER=5"),
        (["SEED", "1", "--resume"], "options come before the settings of the config, got --resume behind SEED"),
        (["SOLVER.MAX_ITER", "1.5"], "SOLVER.MAX_ITER must be of type int, such as 90000, got '1.5'"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR must be of type float, .* got 'fast'"),
        (["INPUT.MIN_SIZE_TRAIN", "640"], "INPUT.MIN_SIZE_TRAIN must be of type tuple, such as .*, got '640'"),
    ],
)
def test_a_wrong_setting_of_a_yaml_config_is_refused(words, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_yaml_config(YAML, words)
    assert "\n" not in str(raised.value)


def test_right_settings_are_taken_and_a_wrong_key_in_a_file_is_named(tmp_path):
    cfg = load_yaml_config(YAML, ["SOLVER.MAX_ITER", "7", "OUTPUT_DIR", "SEED", "MODEL.WEIGHTS", ""])
    assert (cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == (7, "SEED", "")
    file = tmp_path / "config.yaml"
    file.write_text("SOLVER:\n  MAX_ITERS: 5\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: .*'SOLVER.MAX_ITERS'; did you mean SOLVER\.MAX_ITER"):
        load_yaml_config(str(file))
    file.write_text("SOLVER: [\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: it cannot be read as a config"):
        load_yaml_config(str(file))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.max_iterr=5", "there is no 'max_iterr'; did you mean max_iter"),
        ("trian.max_iter=5", "there is no 'trian'; did you mean train"),
        ("optimizer.lrr=1", "there is no 'lrr'; did you mean lr"),
        ("model.roi_heads.num_clases=3", "there is no 'num_clases'; did you mean num_classes"),
        ("train.max_iter", "key=value, without spaces, got 'train.max_iter'"),
        ("train.max_iter=[", r"train\.max_iter=\[ cannot be used"),
        ("--resume", "options come before the settings"),
    ],
)
def test_a_wrong_setting_of_a_lazy_config_is_refused(word, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_lazy_config(LAZY, ["train.output_dir=x", word])
    assert "\n" not in str(raised.value)


def test_what_a_lazy_config_builds_may_be_given_any_of_its_arguments():
    words = [
        "train.seed=3",
        "optimizer.lr=0.5",
        "optimizer.nesterov=True",
        "dataloader.train.num_workers=0",
        "+own.key=1",
    ]
    cfg = load_lazy_config(LAZY, words)
    assert (cfg.train.seed, cfg.optimizer.lr, cfg.optimizer.nesterov, cfg.own.key) == (3, 0.5, True, 1)


def test_an_unregistered_name_is_answered_with_the_nearest():
    from detectron2.data import DatasetCatalog
    from detectron2.modeling import BACKBONE_REGISTRY

    message = "BACKBONE has no .*did you mean build_resnest_fpn_backbone"
    with pytest.raises(ConfigError, match=message), config_errors(name_nearest):
        BACKBONE_REGISTRY.get("build_resnest_fpn_bakbone")
    message = "'coco_2017_trian' is not registered; did you mean coco_2017_train"
    with pytest.raises(ConfigError, match=message), config_errors(name_nearest):
        DatasetCatalog.get("coco_2017_trian")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["INPUT.MIN_SIZE_TRAIN", "(96,)"], r"range, got \(96,\): write '\(96,96\)', or set .*_SAMPLING choice"),
        (["INPUT.MIN_SIZE_TRAIN", "(96,64,80)"], r"write '\(64,96\)'"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], "must be sizes of the shorter side"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "rnge"], "_SAMPLING must be range or choice, got 'rnge'"),
    ],
)
def test_sizes_that_do_not_go_with_their_sampling_are_refused(words, message):
    base = ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"]
    with pytest.raises(ConfigError, match=message):
        check_sizes(load_yaml_config(YAML, [*base, *words]))
    check_sizes(load_yaml_config(YAML, [*base, "INPUT.MIN_SIZE_TRAIN", "(64,96)"]))
    check_sizes(load_yaml_config(YAML, ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "INPUT.MIN_SIZE_TRAIN", "(96,)"]))


def test_a_device_that_is_none_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE must be a device such as cpu, cuda or cuda:1, got 'gpu'"):
        device_or_cpu("gpu", "MODEL.DEVICE")
