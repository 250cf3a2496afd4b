"""What the tests that try arguments at random share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# The same examples each time: a failure is one that the next run has too.
_COMMON = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False)
FEW = settings(_COMMON, max_examples=12)
MANY = settings(_COMMON, max_examples=400)


def values(*good: Any, bad: tuple = ()) -> tuple[tuple, tuple]:
    """Values of an argument that may be, and some that may not."""
    return good, bad


def combined(required: dict[str, tuple], optional: dict[str, tuple]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that each may be, and in half of the cases one that may not be among them."""
    good = st.fixed_dictionaries(
        {name: st.sampled_from(good) for name, (good, _) in required.items()},
        optional={name: st.sampled_from(good) for name, (good, _) in optional.items()},
    )
    wrong = [(name, value) for name, (_, bad) in {**required, **optional}.items() for value in bad]
    spoiled = st.one_of(st.just(None), st.sampled_from(wrong))
    return st.tuples(good, spoiled).map(
        lambda both: both[0] if both[1] is None else {**both[0], both[1][0]: both[1][1]}
    )


def try_many(check: Callable[..., str], record_property: Callable[[str, object], None], what: str, *strategies) -> None:
    """Check many examples, of which enough must be built and enough refused; the table of faults shows how many."""
    outcomes: list[str] = []

    @MANY
    @given(st.tuples(*strategies))
    def many(arguments: tuple) -> None:
        outcomes.append(check(*arguments))

    many()
    built, refused = outcomes.count("built"), outcomes.count("refused")
    assert min(built, refused) > 30
    record_property("times", len(outcomes))
    record_property("detail", f"{built} {what}, {refused} refused")
