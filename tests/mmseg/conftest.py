"""What MMEngine keeps for a whole process is kept for one test module here; small data and trainings are shared."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# The helpers hold no tests, and all of it needs MMSegmentation.
collect_ignore_glob = ["helpers.py"] if find_spec("mmseg") else ["*.py"]


@pytest.fixture(scope="module", autouse=True)
def mmengine_as_in_a_new_process() -> Iterator[None]:
    """Scopes, loggers, message hubs, visualizers and loaders of files that one module leaves reach no other."""
    from tests.mmseg.helpers import as_in_a_new_process

    with as_in_a_new_process():
        yield


@pytest.fixture(scope="session")
def custom_data(tmp_path_factory) -> Path:
    """A dataset in ADE20K's layout, which no test changes."""
    from tests.mmseg.helpers import make_label_map_dataset

    return make_label_map_dataset(tmp_path_factory.mktemp("data") / "custom")


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    from tests.mmseg.helpers import write_config

    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def trained(custom_data, config, tmp_path_factory) -> Path:
    """The work dir of six iterations on a custom dataset, from a config for another one and without a seed."""
    import train_seg
    from tests.mmseg.helpers import run_here

    work_dir = tmp_path_factory.mktemp("trained")
    run_here(train_seg.run, config, "--data-root", custom_data, "--work-dir", work_dir)
    return work_dir
