"""What several test files need: the shared reference, and models filled fast with numbers that exercise every layer."""

import gc
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    """What is imported stays: garbage collections, which MMEngine and the compiler ask for often, may pass over it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_traces_of_the_compiler(monkeypatch) -> None:
    """Pytest's log handlers would have it write out each graph for them, which takes longer than making it."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)


@pytest.fixture(scope="session", autouse=True)
def configs_are_dumped_as_they_come() -> Iterator[None]:
    """MMEngine has yapf format the config five times in a run, which takes longer than a small training."""
    if importlib.util.find_spec("yapf") is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))
        yield


@pytest.fixture(autouse=True)
def same_random_numbers_in_every_run() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference facts and sample data beside the checkout."""
    if not (SHARED / "reference").is_dir():
        pytest.skip(f"the reference folder {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def smoke_root(tmp_path_factory) -> Path:
    """A data root that recipes and published files are tried on, to be read only."""
    pytest.importorskip("detectron2")
    from tests.reproduction.smoke_data import make_smoke_data

    return make_smoke_data(tmp_path_factory.mktemp("smoke") / "data")


@pytest.fixture(scope="session")
def published(shared) -> dict:
    """published_results.json."""
    return json.loads((shared / "reference" / "published_results.json").read_text())


@pytest.fixture(scope="session")
def seeded_weights(shared) -> ModuleType:
    """The module that fills a state dict as the goldens' makers did."""
    spec = importlib.util.spec_from_file_location("seeded_weights", shared / "reference" / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fill_randomly() -> Callable[[nn.Module], nn.Module]:
    """Fills a module with float64 numbers that keep activations near one; batch norms get statistics of their own.

    A module made under ``torch.device("meta")`` is welcome: that skips its own slow initialisation.
    """

    def value(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
        leaf = name.rpartition(".")[2]
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        if leaf == "num_batches_tracked":
            return torch.tensor(3)
        if leaf == "running_var":
            return 0.5 + noise.abs()
        if leaf in ("running_mean", "bias"):
            return 0.1 * noise
        if like.ndim >= 2:
            return noise * math.sqrt(2 / math.prod(like.shape[1:]))
        return 0.5 + 0.1 * noise

    def fill(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        state = {name: value(name, like, generator) for name, like in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
        return module

    return fill


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """A tool that runs inside a test sets up loggers; their files and streams end with it."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "resnest_backbones")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
