"""Colours of classes."""

import itertools

import numpy as np
import pytest

from resnest_backbones.data import palette_of
from resnest_backbones.data.palette import make_palette


def test_colours_differ_and_the_first_do_not_depend_on_the_number():
    assert make_palette(7) == make_palette(254)[:7]
    assert len({tuple(colour) for colour in make_palette(254)}) == 254
    assert min(min(colour) for colour in make_palette(254)) >= 0 and max(map(max, make_palette(254))) <= 255
    distances = [np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(make_palette(20), 2)]
    assert min(distances) > 30
    neighbours = [np.abs(np.subtract(a, b)).max() for a, b in itertools.pairwise(make_palette(254))]
    assert min(neighbours) > 100


def test_the_datasets_with_colours_of_their_own_keep_them_by_the_names_of_the_classes():
    pytest.importorskip("mmseg")
    from mmseg.datasets import ADE20KDataset, CityscapesDataset

    for dataset in (ADE20KDataset, CityscapesDataset):
        classes, palette = dataset.METAINFO["classes"], dataset.METAINFO["palette"]
        assert palette_of(classes) == palette
        assert palette_of([name.upper() for name in classes[::-1]]) == palette[::-1]
        assert palette_of([f"{name}, and a synonym" for name in classes]) == palette
        assert palette_of(classes[1:]) == make_palette(len(classes) - 1)  # other classes than these
        assert palette_of([*classes[1:], classes[1]]) == make_palette(len(classes))
