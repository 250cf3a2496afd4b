"""What the tests of exported models share."""

from pathlib import Path

import torch

from resnest_backbones.export import Exportable, Loaded, check_parity, load


def assert_parity(
    exportable: Exportable, file: Path | Loaded, inputs: list[torch.Tensor], tolerance: float = 1e-5
) -> None:
    """The file gives what the network gives, at each of the inputs, up to a share of the output's largest value."""
    differences = check_parity(exportable, file if isinstance(file, Loaded) else load(file), inputs)
    assert {found.output for found in differences} == set(exportable.output_names)
    assert {found.size for found in differences} == {tuple(x.shape) for x in inputs}
    for found in differences:
        assert found.relative <= tolerance and not found.unmatched, found
