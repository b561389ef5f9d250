"""The header reader against the library that defines the format, and against files meant to mislead it."""

import json
import struct

import numpy as np
import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save
from suites import entry as typed
from suites import neox_tensors, safetensors_bytes, with_header, write_checkpoint

from ninscope.checkpoints.formats.safetensors import PACKED_BITS, read_header
from ninscope.checkpoints.formats.weight_file import ITEM_BYTES, MAX_DIMENSIONS
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import STORED_TYPES
from ninscope.errors import CheckpointError
from ninscope.networks.neuron_network import neuron_network

GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float16)})


def header_of(content: bytes):
    """Read as the package does, with a reader that refuses to go past the end."""

    def read(start, stop):
        assert 0 <= start <= stop <= len(content)
        return content[start:stop]

    return read_header(read, len(content), "step7/model.safetensors")


def described(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def rejects(content: bytes, match: str, status: str = "corrupt"):
    with pytest.raises(CheckpointError, match=match) as caught:
        header_of(content)
    assert caught.value.status == status
    return str(caught.value)


class TestWellFormed:
    def test_same_tensors_as_the_library(self):
        content = save(dict(neox_tensors(2, 8, 2, seed=0)), metadata={"format": "pt"})
        ours = {
            entry.name: (entry.dtype, list(entry.shape), content[entry.start : entry.stop])
            for entry in header_of(content).values()
        }
        theirs = {
            name: (about["dtype"], about["shape"], bytes(about["data"]))
            for name, about in safetensors.deserialize(content)
        }
        assert ours == theirs
        assert "__metadata__" not in ours

    @given(
        shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=6),
        dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16, np.bool_]),
    )
    def test_any_shapes(self, shapes, dtype):
        arrays = {f"t{i}": np.zeros(shape, dtype) for i, shape in enumerate(shapes)}
        entries = header_of(save(arrays))
        assert {name: entry.shape for name, entry in entries.items()} == {n: a.shape for n, a in arrays.items()}
        assert {name: entry.stop - entry.start for name, entry in entries.items()} == {
            n: a.nbytes for n, a in arrays.items()
        }

    def test_scalars_and_no_tensors(self):
        assert header_of(save({"s": np.array(1, np.float32)}))["s"].shape == ()
        assert header_of(with_header({})) == {}

    def test_bytes_per_number_are_those_of_the_library(self):
        """The library accepts a file of each type, so its table of sizes is ours."""
        for dtype, size in ITEM_BYTES.items():
            content = safetensors_bytes({"a": (dtype, (3,), bytes(3 * size))})
            assert header_of(content)["a"].dtype == dtype
            assert [len(about["data"]) for _, about in safetensors.deserialize(content)] == [3 * size]

    @pytest.mark.parametrize(("dtype", "bits"), PACKED_BITS.items())
    def test_packed_types_take_whole_bytes(self, dtype, bits):
        entry = header_of(safetensors_bytes({"a": (dtype, (2, 8), bytes(2 * bits))}))["a"]
        assert entry.stop - entry.start == 2 * bits

    def test_data_may_start_anywhere(self):
        contents = [safetensors_bytes({"x" * n: ("F16", (1,), b"ab")}, multiple=1) for n in range(1, 5)]
        assert {header_of(content)["x" * n].start % 4 for n, content in enumerate(contents, 1)} == {0, 1, 2, 3}

    def test_reads_the_header_and_nothing_else(self):
        asked = []

        def read(start, stop):
            asked.append((start, stop))
            return GOOD[start:stop]

        read_header(read, len(GOOD), "here")
        assert asked == [(0, 8), (8, 8 + struct.unpack("<Q", GOOD[:8])[0])]


class TestDamaged:
    @pytest.mark.parametrize("size", range(8))
    def test_too_short_for_a_length(self, size):
        message = rejects(GOOD[:size], f"step7/model.safetensors: {size} bytes are too few")
        assert "fetch the file again" in message

    @given(st.integers(8, len(GOOD) - 1))
    def test_truncated_anywhere(self, size):
        rejects(GOOD[:size], "step7/model.safetensors: truncated")

    def test_truncated_in_the_data_says_how_much_is_there(self):
        rejects(GOOD[:-1], rf"truncated: the header describes {len(GOOD)} bytes, the file has {len(GOOD) - 1}")

    @pytest.mark.parametrize("length", [100_000_001, 2**40, 2**63, 2**64 - 1])
    def test_absurd_header_length(self, length):
        rejects(struct.pack("<Q", length) + GOOD[8:], f"not a safetensors file.*header of {length} bytes")

    def test_an_absurd_length_is_not_read(self):
        """Nothing may be allocated on a stranger's word: even in a file that could hold that much."""

        def read(start, stop):
            assert stop <= 8
            return struct.pack("<Q", 2**40)

        with pytest.raises(CheckpointError, match="not a safetensors file"):
            read_header(read, 2**41, "here")

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02}q\x00." * 10,
            b"PK\x03\x04\x00\x00\x08\x08" + bytes(60),
            b"<!DOCTYPE html><html>not found</html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
        ],
        ids=["pickle", "torch", "html", "lfs-pointer"],
    )
    def test_other_files(self, content):
        rejects(content, "not a safetensors file")

    def test_zeros(self):
        rejects(bytes(100), "not JSON")  # an allocated but never written file

    @given(st.binary(max_size=200), st.booleans())
    def test_garbage_is_an_error_of_ours_or_nothing(self, junk, framed):
        content = with_header(junk) if framed else junk
        try:
            entries = header_of(content)
        except CheckpointError:
            return
        assert all(entry.stop <= len(content) for entry in entries.values())

    @given(st.integers(8, 8 + struct.unpack("<Q", GOOD[:8])[0] - 1), st.integers(0, 255))
    def test_one_wrong_header_byte_leads_nowhere(self, position, byte):
        content = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
        try:
            entries = header_of(content)
        except CheckpointError:
            return
        for entry in entries.values():
            assert 8 <= entry.start <= entry.stop <= len(content)
            assert entry.stop - entry.start == int(np.prod(entry.shape)) * ITEM_BYTES[entry.dtype]

    @pytest.mark.parametrize(
        ("header", "match"),
        [
            (b"{", "header is not JSON"),
            (b'{"a": \xff\xfe}', "header is not JSON"),
            (b"[" * 100_000 + b"]" * 100_000, "header is not JSON"),
            (b'{"a": ' + b"1" * 5000 + b"}", "header is not JSON|not described"),
            ([], "header is not a JSON object"),
            (b"null", "header is not a JSON object"),
            (b'"a"', "header is not a JSON object"),
            ({"a": None}, "tensor a is not described"),
            ({"a": [1]}, "tensor a is not described"),
        ],
    )
    def test_header_that_is_no_description(self, header, match):
        rejects(with_header(header, bytes(24)), match)

    def test_a_name_twice(self):
        one = json.dumps({"a": described()})[1:-1]
        header = ("{" + one + ", " + one + "}").encode()
        rejects(with_header(header, bytes(24)), "a name appears twice")

    def test_a_key_twice_in_one_description(self):
        header = b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'
        rejects(with_header(header, bytes(24)), "a name appears twice")

    @pytest.mark.parametrize(
        "shape", [None, 6, "23", [2, -3], [2, 3.0], [2, "3"], [True, 6], [2**63], [[2, 3]], [1] * (MAX_DIMENSIONS + 1)]
    )
    def test_senseless_shape(self, shape):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}
        rejects(with_header(header, bytes(24)), "tensor a has a senseless shape")

    @pytest.mark.parametrize(
        "offsets", [None, 0, [0], [0, 24, 48], [24, 0], [-24, 0], [0.0, 24.0], [False, 24], ["0", "24"], [0, 2**64]]
    )
    def test_senseless_offsets(self, offsets):
        header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": offsets}}
        rejects(with_header(header, bytes(24)), "tensor a has senseless data_offsets")

    def test_a_shape_too_large_for_its_bytes(self):
        header = {"a": described(shape=[2**62] * 3)}
        rejects(with_header(header, bytes(24)), "tensor a of type F32 .* its offsets give 24")

    @pytest.mark.parametrize("offsets", [(0, 23), (0, 25), (0, 12), (0, 0)])
    def test_offsets_that_disagree_with_shape_and_type(self, offsets):
        rejects(
            with_header({"a": described(offsets=offsets)}, bytes(100)),
            rf"tensor a of type F32 and shape \[2, 3\] takes 24 bytes, its offsets give {offsets[1] - offsets[0]}",
        )

    @pytest.mark.parametrize("start", [0, 4, 20, 23])
    def test_overlap(self, start):
        header = {"a": described(), "b": described(offsets=(start, start + 24))}
        rejects(with_header(header, bytes(100)), "tensor b overlaps another tensor")

    def test_overlap_is_found_whatever_the_order_in_the_header(self):
        header = {"b": described(offsets=(20, 44)), "c": described(offsets=(44, 68)), "a": described()}
        rejects(with_header(header, bytes(100)), "tensor b overlaps another tensor")

    def test_data_beyond_the_end(self):
        rejects(with_header({"a": described(offsets=(2**50, 2**50 + 24))}, bytes(24)), "truncated")


class TestTypes:
    def test_an_unknown_type_is_unsupported_and_named(self):
        message = rejects(with_header({"a": described(dtype="F128")}, bytes(96)), "tensor a .*'F128'", "unsupported")
        assert "convert it to F16, BF16 or F32" in message

    @pytest.mark.parametrize("dtype", sorted({*ITEM_BYTES} - {*STORED_TYPES}))
    def test_an_unused_tensor_of_a_type_that_is_not_read_refuses_no_file(self, tmp_path, dtype):
        tensors = neox_tensors(2, 8, 2, seed=0)
        entries = {name: typed(array) for name, array in tensors.items()}
        entries["unused"] = (dtype, (3, 5), bytes(15 * ITEM_BYTES[dtype]))
        write_checkpoint(tmp_path / "step0", tensors)
        (tmp_path / "step0" / "model.safetensors").write_bytes(safetensors_bytes(entries))
        assert neuron_network(open_source(tmp_path).open("step0")).weight_bytes == 2 * 12 * 8 * 8 * 2

    @pytest.mark.parametrize("dtype", [None, 32, ["F32"], {"F32": 1}, "f32", "F32 "])
    def test_a_senseless_type(self, dtype):
        rejects(with_header({"a": described(dtype=dtype)}, bytes(24)), "tensor a has the unknown type", "unsupported")

    def test_a_known_type_that_cannot_be_measured_is_described(self):
        """An unused tensor of such a type (Pythia's attention.bias masks) is no reason to refuse the rest."""
        header = {"mask": described("BOOL", [24], (0, 24)), "a": described("F8_E4M3", [4], (24, 28))}
        assert {entry.dtype for entry in header_of(with_header(header, bytes(28))).values()} == {"BOOL", "F8_E4M3"}


@given(st.text(min_size=1))
@example("two\nlines")
@example("\x1b[31mred")
@example("\ud800")
@example("\u2028")
def test_a_message_is_one_printable_line_whatever_the_name(name):
    """Names come from strangers and messages go to terminals and tables: no line breaks, no controls, no lone surrogates."""
    header = json.dumps({name: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 24]}}).encode()
    if name == "__metadata__":
        return
    message = rejects(with_header(header, bytes(24)), "senseless shape")
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def test_a_message_stays_readable_however_long_the_name():
    header = {"x" * 100_000: described(shape=[2**62] * 60)}
    with pytest.raises(CheckpointError, match=r"step7/model\.safetensors: tensor x") as caught:
        header_of(with_header(header, bytes(24)))
    length = len(str(caught.value))
    assert length < 2000
