"""The folder of this checkout, and how to start its tools in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
BENCHMARKS = ROOT / "docs" / "benchmark"


def environment_with_package(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a tool finds this package, installed or not."""
    paths = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    return {**environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *paths])}
