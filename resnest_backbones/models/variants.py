"""One spec per published network.

The seven ``resnest50_fast_<R>s<K>x<W>d`` networks are the original's ablation (ablation.md): R splits, K groups of W
channels at the first stage, and the average pool that downsamples stands before the 3x3 convolution, not after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnest_backbones.errors import did_you_mean
from resnest_backbones.models.arguments import check_flags, check_positive, is_positive


@dataclass(frozen=True)
class ResNeStSpec:
    """What distinguishes one ResNeSt from another.

    Attributes:
        name: the published name.
        depths: number of bottleneck blocks in res2, res3, res4, res5.
        stem_width: channels of the first two stem convolutions; the third has twice as many.
        radix: number of splits, R.
        cardinality: number of groups, K.
        bottleneck_width: channels per group at the first stage (64 as in ResNet).
        avd_first: the 3x3 average pool that downsamples comes before the 3x3 convolution, not after it.
        params: parameters with the 1000-class head, counted.
        multiply_adds: multiply-adds of one 224 x 224 image with that head, counted: convolutions and linear layers, and
            one for each element that a norm scales and shifts (this count reproduces five of the seven published
            numbers of the ablation to all printed digits; ``tests/models/test_variants.py`` names the others).
    """

    name: str
    depths: tuple[int, int, int, int]
    stem_width: int = 32
    radix: int = 2
    cardinality: int = 1
    bottleneck_width: int = 64
    avd_first: bool = False
    params: int | None = None
    multiply_adds: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.depths, Sequence):
            # Configuration files (Detectron2's LazyConfig) turn tuples into lists.
            object.__setattr__(self, "depths", tuple(self.depths))
        depths = self.depths
        if not isinstance(depths, tuple) or len(depths) != 4 or not all(map(is_positive, depths)):
            raise ValueError(f"depths must be a tuple of four positive integers, got {depths!r}")
        for field in ("stem_width", "radix", "cardinality", "bottleneck_width"):
            check_positive(field, getattr(self, field))
        check_flags(avd_first=self.avd_first)

    def width(self, planes: int) -> int:
        """Compute the channels of the 3x3 convolution in a stage of ``planes`` (64, 128, 256, 512)."""
        return int(planes * self.bottleneck_width / 64) * self.cardinality


def _fast(radix: int, cardinality: int, width: int, **costs: int) -> ResNeStSpec:
    name = f"resnest50_fast_{radix}s{cardinality}x{width}d"
    return ResNeStSpec(name, (3, 4, 6, 3), 32, radix, cardinality, width, avd_first=True, **costs)


_SPECS = (
    ResNeStSpec("resnest14", (1, 1, 1, 1), params=10_611_688, multiply_adds=2_756_731_360),
    ResNeStSpec("resnest26", (2, 2, 2, 2), params=17_069_448, multiply_adds=3_633_352_128),
    ResNeStSpec("resnest50", (3, 4, 6, 3), params=27_483_240, multiply_adds=5_385_512_800),
    ResNeStSpec("resnest101", (3, 4, 23, 3), stem_width=64, params=48_275_016, multiply_adds=10_222_496_736),
    ResNeStSpec("resnest152", (3, 8, 36, 3), stem_width=64, params=65_316_040, multiply_adds=13_943_471_968),
    ResNeStSpec("resnest200", (3, 24, 36, 3), stem_width=64, params=70_201_544, multiply_adds=17_448_960_864),
    ResNeStSpec("resnest269", (3, 30, 48, 8), stem_width=64, params=110_929_480, multiply_adds=22_483_981_792),
    _fast(1, 1, 64, params=26_217_896, multiply_adds=4_341_377_504),
    _fast(2, 1, 64, params=27_483_240, multiply_adds=4_344_009_568),
    _fast(4, 1, 64, params=31_912_712, multiply_adds=4_351_172_288),
    _fast(1, 2, 40, params=25_946_680, multiply_adds=4_377_382_464),
    _fast(2, 2, 40, params=26_943_792, multiply_adds=4_380_087_928),
    _fast(4, 2, 40, params=30_417_592, multiply_adds=4_386_978_288),
    _fast(1, 4, 24, params=25_677_000, multiply_adds=4_413_388_960),
)

VARIANTS: dict[str, ResNeStSpec] = {spec.name: spec for spec in _SPECS}


def list_variants() -> list[str]:
    """Return the names of all networks that ``build`` knows.

    Examples:
        >>> "resnest50" in list_variants()
        True
    """
    return list(VARIANTS)


def get_variant(name: str) -> ResNeStSpec:
    """Return the spec of a published network.

    Raises:
        ValueError: ``name`` is not one of ``list_variants()``.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        hint = did_you_mean(str(name), VARIANTS, f"available: {', '.join(VARIANTS)}")
        raise ValueError(f"name must be one of list_variants(), got {name!r}; {hint}")
    return VARIANTS[name]
