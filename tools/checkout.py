"""The checkout that this package lies in: its tools, how to start them in a process of their own, and its records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

# Not there where the package was installed from a wheel.
TOOLS = _ROOT / "tools"
BENCHMARKS = _ROOT / "docs" / "benchmark"


def environment_with_package(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which the tools find this package, be it installed or a checkout."""
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(_ROOT)]
    return {**environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *paths])}
