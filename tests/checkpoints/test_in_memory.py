"""Tensors in memory as files of weights: which bytes are read, where they lie, and what cannot be read."""

import typing

import numpy as np
import pytest
from held_models import assert_measured_alike

import ninscope
from ninscope.architectures.tied import tied_names
from ninscope.checkpoints.held_pieces import HeldPiece, held_pieces
from ninscope.checkpoints.in_memory import REVISION, HeldTensor, in_memory_source
from ninscope.checkpoints.tensors import Tensor
from ninscope.errors import CheckpointError, RequestError

torch = pytest.importorskip("torch")

WAYS = {
    "contiguous": lambda values: values,
    "turned": lambda values: values.T.contiguous().T,
    "every second column": lambda values: torch.stack((values, values + 1), -1).reshape(len(values), -1)[:, ::2],
    "a part of rows": lambda values: torch.cat((values, values))[3 : 3 + len(values)],
    "one row, many times": lambda values: values[:1].expand(len(values), -1),
    "a parameter": torch.nn.Parameter,
    "an array": lambda values: values.view(torch.int16).numpy().view(np.float16),
    "an array turned": lambda values: np.asfortranarray(values.view(torch.int16).numpy().view(np.float16)),
    "an array with its bytes turned": lambda values: values.view(torch.int16).numpy().view(np.float16).astype(">f2"),
}


def numbers(dtype=None):
    return torch.arange(9 * 14).reshape(9, 14).to(dtype or torch.float16)


@pytest.mark.parametrize("way", WAYS)
def test_any_bytes_are_those_of_the_rows(way):
    """Whole rows are what is asked for; others do no harm."""
    tensor = WAYS[way](numbers())
    expected = (
        np.ascontiguousarray(np.asarray(tensor.detach() if hasattr(tensor, "detach") else tensor))
        .astype("<f2")
        .tobytes()
    )
    held = HeldTensor("w", tensor)
    assert (held.shape, held.dtype, held.size, held.is_whole) == ((9, 14), "F16", len(expected), True)
    ranges = [(0, held.size), (28, 84), (0, 0), (held.size, held.size), (27, 61), (3, 4), (28 * 8, held.size)]
    assert [bytes(piece) for piece in held.read_ranges(ranges)] == [expected[first:last] for first, last in ranges]
    assert [bytes(piece) for piece in held.start_ranges(ranges)()] == [expected[first:last] for first, last in ranges]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("bfloat16", "BF16"), ("float32", "F32"), ("float64", "F64"), ("bool", "BOOL"), ("int64", "I64"), ("uint8", "U8"),
     ("float8_e4m3fn", "F8_E4M3"), ("complex64", "C64")],
)  # fmt: skip
def test_types_are_called_as_in_a_file(tmp_path, dtype, name):
    from safetensors.torch import save_file

    tensor = numbers(getattr(torch, dtype))
    save_file({"w": tensor}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    held = HeldTensor("w", tensor)
    assert f'"dtype":"{name}"'.encode() in content
    assert held.dtype == name
    assert bytes(held.read_ranges([(0, held.size)])[0]) == content[-held.size :]


def test_no_number_and_one_number_are_tensors():
    for tensor, content in ((torch.tensor(1.0), b"\0\0\x80\x3f"), (torch.zeros(0, 3), b"")):
        held = HeldTensor("w", tensor)
        assert bytes(held.read_ranges([(0, held.size)])[0]) == content
        assert held.pieces[0].start == (0,) * tensor.ndim


def test_what_lies_in_memory_row_by_row_is_not_copied():
    for dtype in (torch.float32, torch.bfloat16):
        tensor = numbers(dtype)
        row = 14 * tensor.itemsize
        (piece,) = HeldTensor("w", tensor).read_ranges([(2 * row, 5 * row)])
        assert np.frombuffer(piece, np.uint8).ctypes.data == tensor.data_ptr() + 2 * row
        assert HeldTensor("w", tensor).pieces[0].values.data_ptr() == tensor.data_ptr()


class Noted(torch.Tensor):
    """Notes how many numbers are in every tensor that is made of it; views of it are none."""

    made: typing.ClassVar[list[int]] = []

    @classmethod
    def __torch_function__(cls, function, kinds, arguments=(), options=None):
        result = super().__torch_function__(function, kinds, arguments, options)
        if isinstance(result, cls) and result.untyped_storage().data_ptr() != arguments[0].untyped_storage().data_ptr():
            cls.made.append(result.numel())
        return result


def test_of_what_lies_otherwise_only_the_rows_asked_for_are_copied():
    """All of a tensor for every band would take the square of its bands."""
    turned = torch.randn(64, 96).T
    row = 64 * turned.itemsize
    held = HeldTensor("w", turned.as_subclass(Noted))
    pieces = held.read_ranges([(first * row, (first + 8) * row) for first in range(0, 96, 8)])
    assert b"".join(pieces) == turned.contiguous().numpy().tobytes()
    assert Noted.made == [8 * 64] * 12


class TestPieces:
    def test_all_of_it_lies_here(self):
        tensor = numbers()
        (piece,) = held_pieces(in_memory_source({"w": tensor}).open(REVISION).tensors["w"])
        assert (piece.start, piece.shape, piece.is_all_of((9, 14))) == ((0, 0), (9, 14), True)
        assert torch.equal(piece.values, tensor)

    def test_of_a_slice_of_a_stack(self):
        stack = torch.randn(4, 3, 5)
        tensor = in_memory_source({"w": stack}).open(REVISION).tensors["w"].slice(2)
        (piece,) = held_pieces(tensor)
        assert (piece.start, piece.shape) == ((0, 0), (3, 5))
        assert torch.equal(piece.values, stack[2])
        assert (
            bytes(tensor.file.read_ranges([(tensor.entry.start, tensor.entry.stop)])[0]) == stack[2].numpy().tobytes()
        )

    def test_of_a_file_there_are_none(self, tmp_path):
        from suites import write_checkpoint

        folder = write_checkpoint(tmp_path / "step0", {"a.weight": np.ones((3, 4), np.float32)}, {"model_type": "mine"})
        source = ninscope.checkpoints.source.open_source(folder)
        assert held_pieces(source.open(source.revisions()[0]).tensors["a.weight"]) is None


def shared(whole, first, last):
    """A tensor of which this rank has some rows; other ranks are not there."""
    held = HeldTensor("w", whole)
    start = (first,) + (0,) * (whole.ndim - 1)
    held._sharded = (HeldPiece(start, whole[first:last]),) if last > first else ()
    return held


class TestRanks:
    def test_pieces_are_what_this_rank_has(self):
        whole, stack = torch.randn(6, 4), torch.randn(4, 3, 5)
        held = shared(whole, 2, 5)
        assert (held.shape, held.is_whole, held.pieces[0].start, held.pieces[0].shape) == (
            (6, 4),
            False,
            (2, 0),
            (3, 4),
        )
        assert shared(whole, 0, 0).pieces == ()
        held = shared(stack, 1, 3)
        tensor = Tensor(held.entry(), held)
        assert [held_pieces(tensor.slice(number)) for number in (0, 3)] == [(), ()]
        assert torch.equal(held_pieces(tensor.slice(2))[0].values, stack[2])

    def test_bytes_of_a_part_are_refused_with_what_to_do(self):
        match = (
            r"tensor w lies on several ranks \(12 of its 24 numbers here\); have every rank measure together "
            r'\(ninscope.integrations.EmergenceMonitor, without gauge="fixed"\), or gather it$'
        )
        held = shared(torch.randn(6, 4), 2, 5)
        with pytest.raises(CheckpointError, match=match) as no:
            held.read_ranges([(32, 48)])
        assert no.value.status == "unsupported"

    def test_one_rank_that_has_all_of_it_reads_it(self):
        whole = torch.randn(6, 4)
        held = shared(whole, 0, 6)
        assert held.is_whole
        assert bytes(held.read_ranges([(32, 48)])[0]) == whole[2].numpy().tobytes()

    def test_copies_are_refused_since_ranks_may_not_agree(self):
        def named(**held):
            names = {f"{name}.weight": one for name, one in held.items()}
            return {name: Tensor(one.entry(name), one) for name, one in names.items()}

        embedding = torch.randn(6, 4)
        held = {"embedding": shared(embedding, 2, 5), "other": shared(torch.randn(6, 4), 2, 5)}
        with pytest.raises(
            CheckpointError, match=r"tensors embedding\.weight and head\.weight lie on several ranks and hold"
        ):
            tied_names(named(**held, head=shared(embedding.clone(), 2, 5)), {})
        held |= {"absent": shared(embedding, 2, 2), "elsewhere": shared(embedding, 1, 5)}
        held |= {name: shared(torch.ones(6, 4), 2, 5) for name in ("gain", "shift")}
        assert tied_names(named(**held), {}) == []


class TestTies:
    @pytest.mark.parametrize("view", [lambda w: w, lambda w: w[:], lambda w: w.data.view(48, 32)])
    def test_one_tensor_of_two_names_is_one(self, tmp_path, view):
        """As in a file of torch, that holds its numbers once."""
        module = torch.nn.ModuleDict({"head": torch.nn.Linear(32, 48), "body": torch.nn.Linear(48, 20)})
        module["emb"] = torch.nn.Embedding(48, 32)
        del module["head"].weight
        module["head"].register_parameter("weight", torch.nn.Parameter(view(module["emb"].weight)))
        torch.save(module.state_dict(), tmp_path / "model.pt")
        tensors = in_memory_source(module).open(REVISION).tensors
        assert tensors["head.weight"].file is tensors["emb.weight"].file
        assert tensors["head.weight"].name == "head.weight"
        assert_measured_alike(module, tmp_path / "model.pt")
        assert ninscope.measure(module).message == ninscope.measure(tmp_path / "model.pt").message
        described = {"blocks": [{"tensor": "head.weight", "source": "a", "target": "b"}]}
        assert_measured_alike(module, tmp_path / "model.pt", architecture=described)

    def test_what_lies_otherwise_is_another(self):
        held = torch.randn(8, 8)
        tensors = in_memory_source({"a": held, "b": held.T, "c": held[:4], "d": held.clone()}).open(REVISION).tensors
        assert len({id(tensor.file) for tensor in tensors.values()}) == 4

    def test_copies_that_differ_in_one_row_are_two(self, tmp_path):
        """Of a large matrix on a Hub only some rows are looked at; what lies in memory is compared whole, as a file is."""
        embedding = torch.randn(400, 16)
        state = {"emb.weight": embedding, "head.weight": embedding.clone(), "last.weight": embedding.clone()}
        state["head.weight"][201, 3] += 1
        tensors = in_memory_source(state).open(REVISION).tensors
        assert tied_names(tensors, {}) == ["last.weight"]


class TestWithoutValues:
    def test_a_model_on_the_device_meta(self):
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8, device="meta"))
        match = r"tensor 1\.weight is on the device meta, where it has no values; load the model's weights first"
        with pytest.raises(CheckpointError, match=match) as no:
            ninscope.measure(model)
        assert no.value.status == "unsupported"
        (row,) = ninscope.measure_all(model)
        assert row.status == "unsupported"

    def test_a_lazy_module(self):
        module = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.Linear(8, 8))
        match = r"tensor 0\.weight has no shape yet, for its module is lazy; run the model once first"
        for source in (module, module.state_dict()):
            with pytest.raises(CheckpointError, match=match):
                ninscope.measure(source)
        module(torch.randn(2, 20))
        assert ninscope.measure(module, min_degree=0).edges > 0

    def test_nothing(self):
        for source in (torch.nn.Sequential(), {}, torch.nn.ReLU()):
            with pytest.raises(
                CheckpointError, match="no tensor is a matrix or a convolution; there is no network"
            ) as no:
                ninscope.measure(source)
            assert no.value.status == "unsupported"

    def test_tensors_of_other_kinds(self):
        match = r"^tensor 0\.weight: its values cannot be had here \(\w+: .+\); measure a copy of the model whose tensors are p"
        with pytest.raises(CheckpointError, match=match) as no:
            ninscope.measure({"0.weight": torch.randn(8, 8).to_sparse()})
        assert no.value.status == "unsupported"
        with pytest.raises(CheckpointError, match=r"tensor 0\.weight is of type I8; only"):
            ninscope.measure({"0.weight": torch.zeros(8, 8, dtype=torch.int8)})


class TestSources:
    def test_what_a_module_keeps_besides_its_tensors_is_left_out(self):
        class Extra(torch.nn.Linear):
            def get_extra_state(self):
                return {"scale": 1}

            def set_extra_state(self, state):
                pass

        module = Extra(24, 16)
        assert list(in_memory_source(module).held) == ["weight", "bias"]
        with pytest.raises(RequestError, match="'_extra_state' of the state dict is no tensor but a dict"):
            ninscope.measure(module.state_dict())

    def test_frozen_weights_are_weights(self):
        module = torch.nn.Linear(24, 16)
        found = ninscope.measure(module, min_degree=0).alpha0
        assert ninscope.measure(module.requires_grad_(False), min_degree=0).alpha0 == found

    def test_identities_tell_models_apart(self):
        module = torch.nn.Linear(24, 16)
        first = in_memory_source(module).identify(REVISION)
        assert in_memory_source(module).identify(REVISION).content_sha256 == first.content_sha256
        with torch.no_grad():
            module.weight[3, 4] += 1
        assert in_memory_source(module).identify(REVISION).content_sha256 != first.content_sha256

    def test_weights_that_are_not_finite(self):
        module = torch.nn.Linear(24, 16)
        with torch.no_grad():
            module.weight[3, 4] = float("nan")
        with pytest.raises(
            CheckpointError, match=r"tensor weight holds NaN or infinity, first at row 3, column 4"
        ) as no:
            ninscope.measure(module)
        assert no.value.status == "nonfinite"
