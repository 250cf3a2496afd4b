"""Files of any format are read without running code, and written whole or not at all."""

import collections
import pickle
import resource

import numpy as np
import pytest
import torch

from resnest_backbones.checkpoint import read_checkpoint, remove_unfinished, save_atomically, set_aside
from resnest_backbones.errors import CheckpointError
from tests.helpers import small_disk


@pytest.mark.parametrize(
    ("module", "name"), [("builtins", "eval"), ("os", "system"), ("numpy", "load"), ("torch", "load")]
)
def test_a_pickle_may_name_arrays_only(module, name, tmp_path):
    file = tmp_path / "file.pkl"
    file.write_bytes(f"c{module}\n{name}\n.".encode())
    with pytest.raises(CheckpointError, match=rf"file\.pkl contains more than .*{module}\.{name}"):
        read_checkpoint(file)


@pytest.mark.fault("a checkpoint of torch.save with a flipped bit", "refused, or no weight is another")
def test_no_flipped_bit_of_a_file_becomes_another_weight(tmp_path, record_property):
    """Files of torch.save carry checksums, which torch.load passes over."""
    file = tmp_path / "flipped.pth"
    state = {"weight": torch.arange(2000.0), "bias": torch.ones(3)}
    torch.save({"model": state, "iteration": 7}, file)
    content = file.read_bytes()
    in_the_numbers = content.index(state["weight"].numpy().tobytes()) + 1234
    chance, refused = np.random.default_rng(0), 0
    for place in (in_the_numbers, *chance.integers(len(content), size=300)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(chance.integers(8))
        file.write_bytes(flipped)
        try:
            read = read_checkpoint(file)
        except CheckpointError as error:
            assert str(file) in str(error)
            refused += 1
        else:  # a bit of the padding, or of a date
            assert place != in_the_numbers
            assert read["iteration"] == 7 and all(torch.equal(read["model"][key], state[key]) for key in state)
    assert refused > 150
    record_property("times", 301)
    record_property("detail", f"{refused} refused")


def test_a_file_without_checksums_or_suffix_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(9)}, tmp_path / "file")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(tmp_path / "file")["weight"], torch.ones(9))


@pytest.mark.fault("a full disk in a write", "the reason is said, what was there stays")
def test_a_full_disk_ends_a_write_with_its_reason_and_keeps_what_was_there(tmp_path):
    with small_disk(tmp_path / "disk", 512) as folder:
        save_atomically({"weight": torch.ones(9)}, folder / "file.pth")
        with pytest.raises(OSError, match=r"file\.pth could not be written: No space left on device"):
            save_atomically({"weight": torch.ones(10**6)}, folder / "file.pth")
        assert [path.name for path in folder.iterdir()] == ["file.pth"]
        assert torch.equal(read_checkpoint(folder / "file.pth")["weight"], torch.ones(9))


@pytest.mark.fault("a limit on the size of files in a write", "the reason is said, what was there stays")
def test_a_file_size_limit_ends_a_write_likewise(tmp_path):
    """As a quota does, and without the right to mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"file\.pth could not be written: File too large"):
            save_atomically({"weight": torch.ones(10**6)}, tmp_path / "file.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [*tmp_path.iterdir()] == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".model.pth.12.partial", "model.pth", ".model.pth.lock"):
        (tmp_path / name).touch()
    assert [path.name for path in remove_unfinished(tmp_path)] == [".model.pth.12.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.pth.lock", "model.pth"]


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_arrays_keep_their_numbers(protocol, tmp_path):
    for dtype in ("<f4", ">f8", "<f2", "<i8", "|u1", "?"):
        array = np.arange(24).astype(dtype)
        content = {
            "c": array.reshape(2, 3, 4),
            "fortran": np.asfortranarray(array.reshape(4, 6)),
            "empty": array[:0],
            "nothing": np.zeros((), dtype),
            "inner": collections.OrderedDict(scalar=array[3], list=["text", 1, 2.5, None, array]),
        }
        file = tmp_path / "file.pkl"
        file.write_bytes(pickle.dumps(content, protocol=protocol))
        read = read_checkpoint(file)
        for key in ("c", "fortran", "empty", "nothing"):
            np.testing.assert_array_equal(read[key], content[key], strict=True)
        assert read["inner"]["scalar"] == array[3]
        assert read["inner"]["list"][:4] == ["text", 1, 2.5, None]
        np.testing.assert_array_equal(read["inner"]["list"][4], array, strict=True)


@pytest.mark.parametrize("array", [np.array([{}]), np.array([None])[0:0], np.array(["text"]), np.zeros(1, "f4,i4")])
def test_arrays_of_anything_but_numbers_are_refused(array, tmp_path):
    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"x": array}))
    with pytest.raises(CheckpointError, match=r"file\.pkl contains more than .*numpy\.dtype"):
        read_checkpoint(file)


def test_an_arrays_type_does_not_believe_the_files_flags(tmp_path):
    """Flags say which bytes are pointers; numpy's own unpickling would follow any number as one."""

    class Flagged:
        def __reduce__(self) -> tuple:
            return np.dtype, ("f8", False, True), (3, "<", None, None, None, -1, -1, 63)

    state = (1, (2,), Flagged(), False, b"\1" * 16)

    class Array:
        def __reduce__(self) -> tuple:
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    file = tmp_path / "file.pkl"
    file.write_bytes(pickle.dumps({"x": Array()}))
    np.testing.assert_array_equal(read_checkpoint(file)["x"], np.frombuffer(b"\1" * 16, "f8"), strict=True)


def test_an_earlier_run_is_moved_and_the_file_to_start_from_is_copied(tmp_path):
    for name in ("model_0001.pth", "model_0002.pth", "log.txt", "mine.txt"):
        (tmp_path / name).write_text(name)
    assert set_aside(tmp_path / "none", ["*.pth"], ["*"]) == set_aside(tmp_path, ["metrics.json"], ["log.txt"]) == []
    (message,) = set_aside(tmp_path, ["model_*.pth"], ["log.txt"], keep=f"{tmp_path / 'model_0001.pth'}#ema")
    (folder,) = tmp_path.glob("before_*")
    assert str(folder) in message and "--resume" in message
    assert sorted(file.name for file in folder.iterdir()) == ["log.txt", "model_0001.pth", "model_0002.pth"]
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["mine.txt", "model_0001.pth"]
    assert (tmp_path / "model_0001.pth").read_text() == (folder / "model_0001.pth").read_text() == "model_0001.pth"
