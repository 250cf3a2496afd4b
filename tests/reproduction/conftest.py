"""What the tests of one module keep from those of others."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A module that reads a data root of its own leaves no trace of it in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DETECTRON2_DATASETS", raising=False)
        yield
