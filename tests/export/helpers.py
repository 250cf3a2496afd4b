"""What the tests of exported models share."""

from pathlib import Path

import torch

from resnest_backbones.export import FORMATS, Exportable, Loaded, check_parity, load, save


def drawn(*sizes: tuple[int, ...], seed: int = 3) -> list[torch.Tensor]:
    """Random pixels, 0 to 255, of these sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, size, generator=generator).float() for size in sizes]


def saved(exportable: Exportable, format_name: str, folder: Path) -> Path:
    """Write ``model`` with the suffix of the format."""
    file = folder / f"model{FORMATS[format_name].suffix}"
    save(exportable, format_name, file)
    return file


def assert_parity(exportable: Exportable, file: Path, inputs: list[torch.Tensor], tolerance: float = 1e-5) -> Loaded:
    """The file gives what the network gives, at each of the inputs, up to a share of the output's largest value."""
    loaded = load(file)
    differences = check_parity(exportable, loaded, inputs)
    assert {found.output for found in differences} == set(exportable.output_names)
    assert {found.size for found in differences} == {tuple(x.shape) for x in inputs}
    for found in differences:
        assert found.relative <= tolerance and not found.unmatched, found
    return loaded
