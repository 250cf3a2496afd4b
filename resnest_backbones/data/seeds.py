"""Seeds that follow from other numbers."""

import numpy as np


def derive_seed(*numbers: int) -> int:
    """Return a 32-bit seed from several non-negative numbers, such as (seed, rank, iteration)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
