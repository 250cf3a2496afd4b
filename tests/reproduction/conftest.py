"""What the tests of one module keep from those of others, and the data that several of them read."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smoke_root(tmp_path_factory) -> Path:
    """The smoke data, to be read only."""
    pytest.importorskip("detectron2")
    from tests.reproduction.smoke_data import make_smoke_data

    return make_smoke_data(tmp_path_factory.mktemp("smoke") / "data")


@pytest.fixture(scope="module", autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """A module that reads a data root of its own leaves no trace of it in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DETECTRON2_DATASETS", raising=False)
        yield
