"""What the tests that try arguments at random share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time: a failure is one that the next run has too.
_COMMON = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False)
FEW = settings(_COMMON, max_examples=12)
MANY = settings(_COMMON, max_examples=400)
slow = pytest.mark.slow
