"""Settings of the command line that have no effect or no sense are refused in one line, with the nearest key."""

import pytest

pytest.importorskip("detectron2")

import train_net
from resnest_backbones import model_zoo
from resnest_backbones.detectron2.engine import train
from resnest_backbones.detectron2.engine.run_setup import check_sizes, device_or_cpu
from resnest_backbones.detectron2.options import load_lazy_config, load_yaml_config, name_nearest
from resnest_backbones.errors import ConfigError, DatasetError, config_errors
from tests.detectron2.trainings import CONFIG, parse, tiny
from tests.helpers import error_of

YAML = model_zoo.get_config_file("faster_rcnn_resnest50_fpn_1x")
LAZY = model_zoo.get_config_file("faster_rcnn_resnest50_fpn_1x_lazy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.BASE_LRR", "1"], "no key 'SOLVER.BASE_LRR'; did you mean SOLVER.BASE_LR"),
        (["SOLVERR.BASE_LR", "1"], "no key 'SOLVERR.BASE_LR'; did you mean SOLVER.BASE_LR"),
        (["solver.max_iter", "1"], "did you mean SOLVER.MAX_ITER"),
        (["MAX_ITER", "1"], "no key 'MAX_ITER'; did you mean SOLVER.MAX_ITER"),
        (["NONSENSE", "1"], "no key 'NONSENSE'; a run's config.yaml lists all keys"),
        (["SOLVER", "1"], "SOLVER is a group of keys, such as SOLVER."),
        (["SOLVER.MAX_ITER"], "pairs, but SOLVER.MAX_ITER has no value"),
        (["SEED", "1", "SOLVER.MAX_ITER=5"], "KEY VALUE: SOLVER.MAX_ITER 5, got SOLVER.MAX_ITER=5"),
        (["SEED", "1", "--resume"], "options must come before config overrides, got --resume after SEED"),
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
        ("model.roi_heads.num_clases=3", "there is no 'num_clases'; did you mean num_classes"),
        ("train.max_iter", "key=value, without spaces, got 'train.max_iter'"),
        ("train.max_iter=[", r"train\.max_iter=\[ cannot be used"),
        ("--resume", "options must come before config overrides"),
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
        (["INPUT.MIN_SIZE_TRAIN", "()"], "must be shorter-side sizes"),
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


# The whole command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--config-file must be given"),
        (["--config-file", CONFIG, "--num-machines", 2], "--num-machines above 1 needs --dist-url tcp://HOST:PORT"),
        (["--config-file", CONFIG, "--dist-timeout", 0], "--dist-timeout must be above 0, got 0"),
        (["--config-file", CONFIG, "--val-json", "a"], "--train-json, --train-images, --val-images are missing"),
        (["--config-file", CONFIG, "--eval-only", "--val-json", "a"], "--val-images are missing"),
    ],
)
def test_options_that_do_not_hold_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train_net.check_arguments(parse(*options))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mistake_ends_the_tool_with_one_line(processes, bccd, tmp_path):
    none = tmp_path / "none.json"
    command = ["--num-gpus", processes, "--dist-url", "auto", "--config-file", CONFIG, *bccd[:1], none, *bccd[2:]]
    message = error_of(train_net.run, *command, *tiny(tmp_path / "run", 1))
    assert message.endswith(f": error: {none} cannot be read: No such file or directory")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.RESNETS.DEPHT", 50], "no key 'MODEL.RESNETS.DEPHT'; did you mean MODEL.RESNETS.DEPTH"),
        (["SOLVER.IMS_PER_BATCH", 1, "MODEL.RESNETS.NORM", "BN"], "PER_BATCH must be 2 or more per process .*, got 1"),
        (["SOLVER.IMS_PER_BATCH", 0], "PER_BATCH must be a positive multiple of the 1 processes, got 0"),
        (["SOLVER.IMS_PER_BATCH", 1], "IMS_PER_BATCH must be 2 or more in total with MODEL.RESNETS.NORM SyncBN, got 1"),
        (["MODEL.RESNETS.DEPTH", 18], "MODEL.RESNETS.DEPTH must be one of 14, .*, got 18"),
    ],
)
def test_a_bad_key_is_a_config_error(keys, message, bccd, tmp_path):
    arguments = ["--config-file", CONFIG, *bccd, *tiny(tmp_path / "run", 1), *keys]
    with pytest.raises(ConfigError, match=message):
        train.YamlRun(parse(*arguments)).build_model()


def test_single_images_are_fine_where_nothing_is_normalised_over_the_batch(bccd, tmp_path):
    keys = {"SOLVER.IMS_PER_BATCH": 1, "MODEL.RESNETS.NORM": "FrozenBN", "MODEL.FPN.NORM": ""}
    assert train.YamlRun(parse("--config-file", CONFIG, *bccd, *tiny(tmp_path, 1, **keys))).build_model().training


def test_masks_are_asked_for_where_the_model_has_them_in_the_end(bccd, tmp_path):
    def setup(*keys):
        arguments = ["--config-file", CONFIG, *bccd, *tiny(tmp_path / "run", 1), *keys]
        return train.YamlRun(parse(*arguments)).cfg

    with pytest.raises(
        DatasetError, match=r"MODEL\.MASK_ON needs masks, but .*train\.json have no usable segmentation"
    ):
        setup("MODEL.MASK_ON", True)
    with pytest.raises(DatasetError, match="PanopticFPN needs other annotations too"):
        setup("MODEL.META_ARCHITECTURE", "PanopticFPN")
    cfg = setup()
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    assert setup("MODEL.ROI_HEADS.NUM_CLASSES", 7).MODEL.ROI_HEADS.NUM_CLASSES == 7
