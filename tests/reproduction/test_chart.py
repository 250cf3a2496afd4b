"""A chart is sound SVG, small, inside its frame, and told to those who cannot see it."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduction.chart import CURVE_CLASSES, Line, draw, thin, ticks

finite = st.floats(-1e30, 1e30)


def elements(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(tag))


@given(st.lists(finite, min_size=1, max_size=5), st.one_of(st.none(), finite))
def test_every_point_is_inside_the_frame(values, level):
    svg = draw("x", "t", "d", "iteration", [Line("a", list(enumerate(values)), level)])
    _, _, width, height = (float(number) for number in ET.fromstring(svg).get("viewBox").split())
    for point in elements(svg, "polyline")[0].get("points").split():
        x, y = (float(number) for number in point.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


@given(finite, finite)
def test_ticks_are_few_even_and_cover_the_values(one, other):
    low, high = min(one, other), max(one, other)
    found = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-12)
    assert found[0] <= low + slack
    assert high - slack <= found[-1]
    assert 2 <= len(found) <= 7
    steps = [after - before for before, after in zip(found, found[1:], strict=False)]
    assert min(steps) > 0
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_a_long_curve_becomes_short_and_keeps_its_shape():
    points = [(step, float(step)) for step in range(90000)]
    short = thin(points)
    assert len(short) <= 200
    assert all(x == pytest.approx(y) for x, y in short)
    assert len(draw("x", "t", "d", "iteration", [Line("a", points)])) < 6000


def test_texts_are_escaped_and_named_by_the_picture():
    svg = draw("row-loss", "<b> & co", 'it "falls"', "iteration <k>", [Line("a", [(1, 1.0), (2, 2.0)])])
    root = ET.fromstring(svg)
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert [named[identifier] for identifier in root.get("aria-labelledby").split()] == ["<b> & co", 'it "falls"']
    assert root.get("role") == "img"
    assert "iteration <k>" in [text.text for text in root.iter("text")]


def test_curves_and_published_levels_have_classes_of_their_own():
    lines = [Line(name, [(0, float(index)), (9, 2.0)], level=1.5) for index, name in enumerate("abc")]
    svg = draw("x", "t", "d", "iteration", lines)
    assert [curve.get("class") for curve in elements(svg, "polyline")] == list(CURVE_CLASSES)
    levels = [line.get("class") for line in elements(svg, "line") if line.get("class") != "grid"]
    assert levels == [f"{name} published" for name in CURVE_CLASSES]


@pytest.mark.parametrize("lines", [[], [Line("a", [])], [Line("a", [(0, 1.0)])] * 4])
def test_what_cannot_be_drawn_is_refused(lines):
    with pytest.raises(ValueError, match="lines must be 1 to 3 with at least one point each"):
        draw("x", "t", "d", "iteration", lines)
