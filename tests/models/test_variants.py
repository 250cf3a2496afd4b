"""The costs of every variant, counted anew and compared with the published ones."""

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from resnest_backbones import VARIANTS, ResNeStSpec, build, get_variant, list_variants

# Published numbers that the original's own networks do not have; everything else agrees to the last printed digit.
MISPRINTED_PARAMS = {"resnest50_fast_1s1x64d": (26.3, "26.22")}
MISPRINTED_GFLOPS = {"resnest50_fast_4s2x40d": (4.41, "4.387"), "resnest50_fast_1s4x24d": (4.42, "4.413")}


def count_multiply_adds(net: torch.nn.Module) -> float:
    analysis = FlopCountAnalysis(net.eval(), torch.zeros(1, 3, 224, 224)).unsupported_ops_warnings(False)
    counted = analysis.by_operator()
    # fvcore counts two operations per element that a batch norm scales and shifts; a multiply-add is one.
    return counted["conv"] + counted["linear"] + counted["batch_norm"] / 2


# tests/documents/test_costs.py has the multiply-adds by a count that runs no arithmetic.
FAST = ("resnest14", "resnest50_fast_4s2x40d")


@pytest.mark.parametrize("name", list_variants())
def test_the_parameters_of_a_variant_are_exact(name):
    with torch.device("meta"):
        net = build(name, out_features=("logits",), num_classes=1000)
    assert sum(parameter.numel() for parameter in net.parameters()) == VARIANTS[name].params


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in list_variants()]
)
def test_the_multiply_adds_of_a_variant_are_exact(name):
    with torch.device("meta"):
        net = build(name, out_features=("logits",), num_classes=1000)
    assert count_multiply_adds(net.to_empty(device="cpu")) == VARIANTS[name].multiply_adds


def test_the_counts_are_the_published_ones(published):
    rows = [row for row in published["imagenet"]["models"] if "params_m" in row]
    assert len(rows) == 7
    for row in rows:
        name, spec = row["name"], VARIANTS[row["name"]]
        if name in MISPRINTED_PARAMS:
            assert (row["params_m"], f"{spec.params / 1e6:.2f}") == MISPRINTED_PARAMS[name]
        else:
            assert f"{spec.params / 1e6:.1f}" == str(row["params_m"]), name
        if name in MISPRINTED_GFLOPS:
            assert (row["gflops"], f"{spec.multiply_adds / 1e9:.3f}") == MISPRINTED_GFLOPS[name]
        else:
            assert f"{spec.multiply_adds / 1e9:.2f}" == f"{row['gflops']:.2f}", name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MISPRINTED_GFLOPS))
def test_the_original_code_has_as_many_multiply_adds(name):
    original = pytest.importorskip("resnest.torch")
    with torch.device("meta"):
        net = getattr(original, name)()
    assert count_multiply_adds(net.to_empty(device="cpu")) == VARIANTS[name].multiply_adds


def test_every_published_network_has_a_spec_under_its_name(published):
    names = {row["name"] for row in published["imagenet"]["models"]}
    assert set(list_variants()) == names | {"resnest14", "resnest26", "resnest152"}
    for name, spec in VARIANTS.items():
        assert get_variant(name) is spec and spec.name == name
        if "fast" in name:
            assert name == f"resnest50_fast_{spec.radix}s{spec.cardinality}x{spec.bottleneck_width}d"
            assert spec.avd_first and spec.depths == VARIANTS["resnest50"].depths
            assert spec.width(64) == spec.bottleneck_width * spec.cardinality
    for name in ("resnet50", "", "ResNeSt50", None, 50, ["resnest50"]):
        message = r"name must be one of list_variants\(\), got .*; (did you mean resnest50|available: resnest14)"
        with pytest.raises(ValueError, match=message) as error:
            get_variant(name)
        assert f"got {name!r}" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (3, 4, 6)}, r"depths must be a tuple of four positive integers, got \(3, 4, 6\)"),
        ({"depths": 50}, r"depths must be a tuple of four positive integers, got 50"),
        ({"radix": 1.5}, r"radix must be a positive integer, got 1.5"),
        ({"bottleneck_width": 0}, r"bottleneck_width must be a positive integer, got 0"),
        ({"stem_width": "32"}, r"stem_width must be a positive integer, got '32'"),
    ],
)
def test_a_bad_field_of_a_spec_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNeStSpec(**{"name": "mine", "depths": (1, 1, 1, 1), **arguments})
