"""What MMEngine keeps for a whole process is kept for one test module here."""

from collections.abc import Iterator

import pytest

# This one holds no tests, and needs MMSegmentation to be imported.
collect_ignore = ["helpers.py"]


@pytest.fixture(scope="module", autouse=True)
def mmengine_as_in_a_new_process() -> Iterator[None]:
    """Scopes, loggers, message hubs, visualizers and loaders of files that one module leaves reach no other."""
    from tests.mmseg.helpers import as_in_a_new_process

    with as_in_a_new_process():
        yield
