"""The names of a model's classes against those of data."""

import pytest

from resnest_backbones.checkpoint.classes import check_resumed_classes, match_classes
from resnest_backbones.errors import DatasetError


@pytest.mark.parametrize(
    ("of_model", "of_data"),
    [(["a", "b"], ["a", "b"]), (("a", "b"), ["a", "b"]), (None, ["a"]), (["a"], []), ([], None), ("cell", ["cell"])],
)
def test_equal_and_unknown_names_fit_without_a_word(of_model, of_data, caplog):
    assert match_classes(of_model, of_data) is None
    check_resumed_classes(of_model, of_data, "file.pth")
    assert caplog.records == []


def test_another_order_is_matched_by_name_and_said(caplog):
    assert match_classes(("a", "b", "c"), ["c", "a", "b"]) == [1, 2, 0]
    assert "matched by name: 3 (a, b, c) in the model, 3 (c, a, b) in the data" in caplog.text


def test_other_names_at_the_same_places_may_mean_the_same(caplog):
    assert match_classes(["wall", "building", "sky"], ["wall", "building, edifice", "sky"]) is None
    assert "differ from the model's; they are matched by position: 3 (wall, building, sky)" in caplog.text


@pytest.mark.parametrize("of_data", [["a"], ["a", "b", "c"], ["b", "x"], ["x", "a"]])
def test_what_cannot_be_matched_is_refused_with_both_lists(of_data):
    both = rf"2 \(a, b\) in the model, {len(of_data)} \({', '.join(of_data)}\) in the data"
    with pytest.raises(DatasetError, match=both):
        match_classes(["a", "b"], of_data)


@pytest.mark.parametrize("of_data", [["a"], ["b", "a"], ["a", "x"], ["a", "b", "c"]])
def test_a_training_goes_on_with_its_own_classes_only(of_data):
    with pytest.raises(
        DatasetError, match=r"--resume continues from file.pth, .*: 2 \(a, b\) there, .* without --resume"
    ):
        check_resumed_classes(["a", "b"], of_data, "file.pth")


def test_long_lists_are_shortened():
    names = [str(number) for number in range(100)]
    with pytest.raises(
        DatasetError, match=r"100 \(0, 1, 2, 3, 4, 5, 6, 7, \.\.\.\) in the model, 2 \(a, b\) in the data"
    ):
        match_classes(names, ["a", "b"])
