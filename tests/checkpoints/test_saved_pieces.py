"""Weights that are kept piece by piece: files that the library of safetensors reads, what was held, and what is refused."""

import json
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors import safe_open

from ninscope.checkpoints.formats.weight_file import TensorEntry
from ninscope.checkpoints.held_pieces import HeldPiece, held_pieces
from ninscope.checkpoints.in_memory import in_memory_source
from ninscope.checkpoints.saved_pieces import copied_pieces, open_pieces, save_pieces
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError

TYPES = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32, "F64": np.float64}


@dataclass
class Held:
    """A tensor in memory, as `HeldFile`."""

    name: str
    pieces: tuple[HeldPiece, ...]
    is_spread: bool = True
    size = 0
    reads_are_free = True


def tensor_of(name, dtype, shape, pieces):
    """pieces: (start, values)."""
    return Tensor(TensorEntry(name, dtype, shape, 0, 0), Held(name, tuple(HeldPiece(*piece) for piece in pieces)))


def cut(rng, ranks):
    """Tensors of every stored type, by rank: one in uneven rows, one in a grid, one whole on rank 0, one with an axis of taps."""
    whole = {
        "rows": ("F32", rng.standard_normal((7, 5)).astype(np.float32)),
        "grid": ("BF16", rng.integers(0, 2**16, (6, 8)).astype(np.uint16)),
        "whole": ("F64", rng.standard_normal((2, 3))),
        "taps": ("F16", rng.standard_normal((5, 4, 3)).astype(np.float16)),
    }
    rows = np.array_split(np.arange(7), ranks)
    held = []
    for rank in range(ranks):
        first, last = (rows[rank][0], rows[rank][-1] + 1) if rows[rank].size else (7, 7)
        columns = slice(8 * rank // ranks, 8 * (rank + 1) // ranks)
        taps = slice(rank, 5, ranks) if ranks > 4 else slice(5 * rank // ranks, 5 * (rank + 1) // ranks)
        pieces = {
            "rows": [((int(first), 0), whole["rows"][1][first:last])],
            "grid": [((row, columns.start), whole["grid"][1][row : row + 3, columns]) for row in (0, 3)],
            "whole": [((0, 0), whole["whole"][1])] if rank == 0 else [],
            "taps": [((taps.start, 0, 0), whole["taps"][1][taps])],
        }
        held.append(
            {name: tensor_of(name, dtype, values.shape, pieces[name]) for name, (dtype, values) in whole.items()}
        )
    return {name: values for name, (_, values) in whole.items()}, held


def put_together(opened, shapes):
    """The tensors that the pieces of all ranks make up, every number of which was held once."""
    found = {name: np.zeros(values.shape, values.dtype) for name, values in shapes.items()}
    times = {name: np.zeros(values.shape, int) for name, values in shapes.items()}
    for saved in opened:
        for name, tensor in saved.tensors.items():
            assert tensor.shape == found[name].shape
            for piece in held_pieces(tensor):
                place = tuple(slice(at, at + size) for at, size in zip(piece.start, piece.shape, strict=True))
                assert piece.values.dtype == TYPES[tensor.dtype]
                found[name][place] = piece.values
                times[name][place] += 1
    assert all((counted == 1).all() for counted in times.values())
    return found


@pytest.mark.parametrize(("ranks", "readers"), [(1, 1), (3, 1), (3, 2), (2, 5), (4, 4)])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path, rng, ranks, readers):
    whole, held = cut(rng, ranks)
    for rank, tensors in enumerate(held):
        save_pieces(tmp_path / "kept", tensors, rank, ranks)
    opened = [open_pieces(tmp_path / "kept", reader, readers) for reader in range(readers)]
    for name, values in put_together(opened, whole).items():
        assert values.tobytes() == whole[name].tobytes(), name
    assert all(held_pieces(tensor) is not None for saved in opened for tensor in saved.tensors.values())


def test_what_a_rank_wrote_it_reads_at_once(tmp_path, rng):
    """Before the others have written theirs."""
    whole, held = cut(rng, 3)
    opened = [save_pieces(tmp_path, tensors, rank, 3) for rank, tensors in enumerate(held)]
    assert put_together(opened, whole).keys() == whole.keys()
    assert {tensor.file.is_spread for saved in opened for tensor in saved.tensors.values()} == {True}


def test_copies_do_not_change_with_the_training(rng):
    whole, held = cut(rng, 2)
    kept = [copied_pieces(tensors) for tensors in held]
    before = {name: values.copy() for name, values in whole.items()}
    for values in whole.values():
        values[...] = 0
    for name, values in put_together(kept, whole).items():
        assert values.tobytes() == before[name].tobytes()


def test_the_library_reads_the_file(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {
        "half": torch.randn(4, 3, dtype=torch.bfloat16),
        "one": torch.randn(5, 2),
        "none": torch.randn(3, 3).half(),
    }
    held = {
        name: tensor_of(name, {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}[values.dtype],
                        tuple(values.shape), [((0, 0), values)])
        for name, values in weights.items()
    }  # fmt: skip
    save_pieces(tmp_path, held)
    with safe_open(tmp_path / "rank0-of-1.safetensors", "pt") as file:
        assert set(file.keys()) == set(weights)
        assert all(torch.equal(file.get_tensor(name), values) for name, values in weights.items())


def test_a_tensor_that_is_computed_is_kept_whole(tmp_path, rng):
    """What lies nowhere in pieces is read by rank 0: here the tensors of a state dict, read as a file's."""
    values = rng.standard_normal((4, 6)).astype(np.float32)
    (tensor,) = in_memory_source({"weight": values}).open("in memory").tensors.values()
    computed = replace(tensor, file=Bytes(tensor.file))
    for kept in (save_pieces(tmp_path, {"w": computed}), open_pieces(tmp_path), copied_pieces({"w": computed})):
        (piece,) = held_pieces(kept.tensors["w"])
        assert piece.values.tobytes() == values.tobytes()
        read, _ = kept.tensors["w"].rows(np.arange(4))
        assert read.tobytes() == values.tobytes()
    assert not save_pieces(tmp_path / "other", {"w": computed}, 1, 2).tensors["w"].file.pieces


class Bytes:
    """A file of weights that is nothing else."""

    reads_are_free = True

    def __init__(self, file):
        self.name, self.size, self.read_ranges, self.start_ranges = (
            file.name,
            file.size,
            file.read_ranges,
            file.start_ranges,
        )


def test_files_of_another_number_of_ranks_go(tmp_path, rng):
    for ranks in (3, 2):
        _, held = cut(rng, ranks)
        for rank in reversed(range(ranks)):
            save_pieces(tmp_path, held[rank], rank, ranks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0-of-2.safetensors", "rank1-of-2.safetensors"]
    open_pieces(tmp_path)


def test_a_mapped_file_that_is_gone_or_another_is_not_read(tmp_path, rng):
    _, held = cut(rng, 1)
    saved = save_pieces(tmp_path, held[0])
    saved.check()
    again = save_pieces(tmp_path, held[0])
    again.check()
    with pytest.raises(
        CheckpointError, match=r"rank0-of-1.safetensors: the weights of the baseline are gone, or other"
    ):
        saved.check()
    (tmp_path / "rank0-of-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="are gone") as raised:
        again.check()
    assert raised.value.status == "missing"


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["rank1-of-2.safetensors"],
        ["rank0-of-2.safetensors", "rank1-of-3.safetensors"],
        ["rank0-of-999999999.safetensors"],  # whose ranks are not listed: there is no memory for so many
    ],
)
def test_files_of_all_ranks_must_be_there(tmp_path, files):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="not all there; a new folder has them"):
        open_pieces(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        open_pieces(tmp_path / "nowhere")


def rewritten(path, change):
    """The file with another header, its data as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    parts = json.loads(header["__metadata__"]["ninscope_pieces"])
    change(header, parts)
    if "__metadata__" in header:
        header["__metadata__"]["ninscope_pieces"] = json.dumps(parts)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def _overlap(header, parts):
    next(part for part in parts.values() if part["tensor"] == "rows")["start"] = [1, 0]


def _outside(header, parts):
    next(iter(parts.values()))["start"] = [9, 9]


def _negative(header, parts):
    next(iter(parts.values()))["start"] = [-1, 0]


def _axes(header, parts):
    next(iter(parts.values()))["shape"] = [2] * 40


def _unknown(header, parts):
    parts["elsewhere"] = {"tensor": "rows", "shape": [7, 5], "start": [0, 0]}


def _no_pieces(header, parts):
    del header["__metadata__"]


def _other_shape(header, parts):
    next(part for part in parts.values() if part["tensor"] == "rows")["shape"] = [8, 5]


def _type(header, parts):
    header["whole"]["dtype"] = "I64"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_overlap, "pieces of tensor rows are not all of it, each number once"),
        (_outside, "is no piece of a tensor of weights"),
        (_negative, "no file of pieces of tensors"),
        (_axes, "is no piece of a tensor of weights"),
        (_unknown, "its metadata speak of 'elsewhere', which it does not hold"),
        (_no_pieces, "no file of pieces of tensors"),
        (_other_shape, "pieces of tensor rows are of unlike tensors"),
        (_type, "tensor whole is no piece of a tensor of weights"),
    ],
)
def test_damaged_files_are_refused(tmp_path, rng, change, message):
    _, held = cut(rng, 2)
    for rank, tensors in enumerate(held):
        save_pieces(tmp_path, tensors, rank, 2)
    rewritten(tmp_path / "rank0-of-2.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as raised:
        open_pieces(tmp_path)
    assert raised.value.status == "corrupt"


def test_a_file_that_was_cut_short_is_refused(tmp_path, rng):
    _, held = cut(rng, 1)
    path = tmp_path / "rank0-of-1.safetensors"
    save_pieces(tmp_path, held[0])
    content = path.read_bytes()
    for kept in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(
            CheckpointError, match=r"rank0-of-1.safetensors: (truncated|cannot be read|\d bytes)"
        ) as raised:
            open_pieces(tmp_path)
        assert raised.value.status == "corrupt"


def test_nothing_is_left_behind_where_a_tensor_cannot_be_read(tmp_path, rng):
    class Unreadable(Bytes):
        def __init__(self):
            self.name, self.size = "weight", 0

        def read_ranges(self, ranges):
            raise CheckpointError("missing", "gone")

    tensor = Tensor(TensorEntry("weight", "F32", (2, 2), 0, 16), Unreadable())
    with pytest.raises(CheckpointError, match="gone"):
        save_pieces(tmp_path, {"weight": tensor})
    assert list(tmp_path.iterdir()) == []
