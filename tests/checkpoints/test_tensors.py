"""Rows of tensors: exactly those stored, from a local file and, by ranges, from a remote one, and no more of that than told."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import entry, from_bf16, neox_tensors, safetensors_bytes, to_bf16, write_checkpoint

from ninscope.checkpoints import local as module_of_local
from ninscope.checkpoints.formats.safetensors import read_header
from ninscope.checkpoints.local import LocalFile
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import OVERFETCH, SMALL_GAP_BYTES, Tensor, as_float, row_spans
from ninscope.errors import CheckpointError

FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


class RangedFile:
    """A file as a Hub's is: every byte costs, and `asked` is the bill."""

    reads_are_free = False

    def __init__(self, content: bytes, name: str = "step7/model.safetensors"):
        self.content, self.name, self.size = content, name, len(content)
        self.asked: list[tuple[int, int]] = []

    def read_ranges(self, ranges):
        self.asked += ranges
        return [memoryview(self.content)[start:stop] for start, stop in ranges]


def local(content: bytes, folder) -> LocalFile:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return LocalFile(path, "step7/model.safetensors")


def tensor_of(file, content: bytes, name: str = "w") -> Tensor:
    return Tensor(read_header(lambda start, stop: content[start:stop], len(content), file.name)[name], file)


def tensor_in(array: np.ndarray, **kwargs) -> tuple[Tensor, RangedFile]:
    content = safetensors_bytes({"before": entry(np.ones(3, np.float16)), "w": entry(array)}, **kwargs)
    file = RangedFile(content)
    return tensor_of(file, content), file


row_sets = st.sets(st.integers(0, 3000), min_size=1, max_size=80).map(lambda rows: np.array(sorted(rows), np.int64))
row_sizes = st.integers(1, 5000)


class TestRowSpans:
    @given(row_sets, row_sizes)
    def test_all_wanted_rows_in_sorted_disjoint_spans(self, wanted, row_bytes):
        spans = row_spans(wanted, row_bytes)
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(set(edges)), "spans are sorted, disjoint, not empty and not adjacent"
        covered = {row for first, last in spans for row in range(first, last)}
        assert covered >= set(wanted.tolist())
        ends = {first for first, _ in spans} | {last - 1 for _, last in spans}
        assert ends <= set(wanted.tolist()), "no span starts or ends with a row that is not wanted"

    @given(row_sets, row_sizes)
    def test_over_fetch(self, wanted, row_bytes):
        """At most OVERFETCH times the wanted rows, but for small gaps, which cost less than the request they save."""
        spans = row_spans(wanted, row_bytes)
        fetched = sum(last - first for first, last in spans)
        gaps = np.diff(wanted) - 1
        small = int(gaps[gaps * row_bytes <= SMALL_GAP_BYTES].sum())
        assert fetched <= max(OVERFETCH * wanted.size, wanted.size + small)

    @given(row_sets, row_sizes)
    def test_no_more_spans_than_needed(self, wanted, row_bytes):
        spans = row_spans(wanted, row_bytes)
        skipped = [after[0] - before[1] for before, after in pairwise(spans)]
        assert all(gap * row_bytes > SMALL_GAP_BYTES for gap in skipped)
        spare = OVERFETCH * wanted.size - sum(last - first for first, last in spans)
        assert all(gap > int(spare) for gap in skipped), "the smallest gap left open would not fit the bound"

    def test_examples(self):
        big = SMALL_GAP_BYTES + 1  # no gap is small
        assert row_spans(np.array([5]), big) == [(5, 6)]
        assert row_spans(np.arange(100), big) == [(0, 100)]
        assert row_spans(np.array([0, 1, 9]), big) == [(0, 2), (9, 10)]
        assert row_spans(np.array([0, 1, 9]), 100) == [(0, 10)]  # 7 rows of 100 bytes are a small gap
        assert row_spans(np.array([0, 2, 9, 11]), big) == [(0, 3), (9, 10), (11, 12)]  # one row to spare: the first
        assert row_spans(np.array([], np.int64), big) == []


class TestRows:
    @pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
    @pytest.mark.parametrize("spaces", range(8))
    def test_exactly_as_stored_wherever_the_data_starts(self, dtype, spaces, rng, tmp_path):
        """Bit for bit, subnormals and the sign of zero included, also where no number is aligned."""
        bits = rng.integers(0, 2**64, (40, 7), dtype=np.uint64)
        if dtype == "BF16":
            array = (bits >> np.uint64(48)).astype(np.uint16)
            array[(array & 0x7F80) == 0x7F80] = 0x8001
        else:
            array = (bits >> np.uint64(64 - 8 * np.dtype(FLOATS[dtype]).itemsize)).astype(
                f"u{FLOATS[dtype]().itemsize}"
            )
            array = array.view(FLOATS[dtype])
            array[~np.isfinite(array)] = -0.0
        content = safetensors_bytes(
            {"w": (dtype, array.shape, array.tobytes())}, multiple=1, metadata={"pad": "." * spaces}
        )
        wanted = np.array([0, 3, 4, 21, 39])
        for file in (RangedFile(content), local(content, tmp_path)):
            values, position = tensor_of(file, content).rows(wanted)
            assert values.dtype == array.dtype
            assert values[position].tobytes() == array[wanted].tobytes()
            assert values.flags.aligned

    def test_unaligned_starts_were_among_them(self):
        contents = [
            safetensors_bytes({"w": ("F64", (1, 1), bytes(8))}, multiple=1, metadata={"pad": "." * n}) for n in range(8)
        ]
        assert {tensor_of(RangedFile(content), content).entry.start % 8 for content in contents} == set(range(8))

    @given(wanted=st.sets(st.integers(0, 499), min_size=1, max_size=60), columns=st.sampled_from([1, 40, 700]))
    def test_any_rows_by_ranges(self, wanted, columns):
        array = np.arange(500 * columns, dtype=np.float32).reshape(500, columns)
        wanted = np.array(sorted(wanted))
        tensor, file = tensor_in(array)
        values, position = tensor.rows(wanted)
        np.testing.assert_array_equal(values[position], array[wanted])
        base, row_bytes = tensor.entry.start, 4 * columns
        assert file.asked == [(base + a * row_bytes, base + b * row_bytes) for a, b in row_spans(wanted, row_bytes)]
        assert values.nbytes == sum(stop - start for start, stop in file.asked)

    def test_all_rows_are_one_range(self):
        tensor, file = tensor_in(np.zeros((50, 3), np.float16))
        tensor.rows(np.arange(50))
        assert file.asked == [(tensor.entry.start, tensor.entry.stop)]

    def test_no_rows(self, tmp_path):
        tensor, file = tensor_in(np.zeros((50, 3), np.float16))
        for of in (tensor, tensor_of(local(file.content, tmp_path), file.content)):
            values, position = of.rows(np.array([], np.int64))
            assert (values.shape[1], position.size) == (3, 0)
        assert file.asked == []

    def test_a_local_tensor_is_read_whole(self, tmp_path):
        content = safetensors_bytes({"w": entry(np.ones((600, 5), np.float32))})
        values, position = tensor_of(local(content, tmp_path), content).rows(np.array([1, 599]))
        assert values.shape == (600, 5)
        np.testing.assert_array_equal(position, [1, 599])

    @pytest.mark.parametrize("dtype", ["I32", "F8_E4M3", "F8_E5M2", "U8", "BOOL", "F4", "C64"])
    def test_types_that_hold_no_plain_floats(self, dtype):
        size = {"I32": 4, "C64": 8, "F4": 0.5}.get(dtype, 1)
        content = safetensors_bytes({"w": (dtype, (4, 2), bytes(int(8 * size)))})
        with pytest.raises(
            CheckpointError, match=f"tensor w is of type {dtype}; only F16, BF16, F32 and F64"
        ) as caught:
            tensor_of(RangedFile(content), content).rows(np.array([0]))
        assert caught.value.status == "unsupported"

    @pytest.mark.parametrize("shape", [(), (12,)])
    def test_what_is_no_matrix(self, shape):
        tensor, file = tensor_in(np.zeros(shape, np.float32))
        with pytest.raises(CheckpointError, match=f"tensor w has {len(shape)} dimensions") as caught:
            tensor.rows(np.array([0]))
        assert caught.value.status == "corrupt"
        assert file.asked == []


class TestNonfinite:
    @pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_the_first_is_named_by_row_and_column(self, dtype, value, tmp_path):
        array = np.ones((300, 5), FLOATS.get(dtype, np.float32))
        array[[107, 107, 250], [3, 4, 0]] = value
        bits = (array.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else array
        content = safetensors_bytes({"w": (dtype, array.shape, bits.tobytes())})
        for file in (RangedFile(content), local(content, tmp_path)):
            with pytest.raises(
                CheckpointError, match="tensor w holds NaN or infinity, first at row 107, column 3"
            ) as no:
                tensor_of(file, content).rows(np.array([2, 107, 250]))
            assert no.value.status == "nonfinite"

    def test_the_row_is_counted_in_the_tensor_and_not_in_what_was_fetched(self):
        array = np.ones((1000, 600), np.float32)
        array[900, 599] = np.nan
        tensor, file = tensor_in(array)
        with pytest.raises(CheckpointError, match="row 900, column 599"):
            tensor.rows(np.array([0, 500, 900]))
        assert len(file.asked) == 3

    def test_rows_that_were_not_fetched_are_not_judged(self):
        array = np.ones((1000, 600), np.float32)
        array[899] = np.nan
        tensor, _ = tensor_in(array)
        values, position = tensor.rows(np.array([0, 500, 900]))
        assert np.isfinite(values[position]).all()

    def test_a_local_tensor_is_judged_whole(self, tmp_path):
        array = np.ones((1000, 600), np.float32)
        array[899, 1] = np.nan
        content = safetensors_bytes({"w": entry(array)})
        with pytest.raises(CheckpointError, match="row 899, column 1"):
            tensor_of(local(content, tmp_path), content).rows(np.array([0]))


class TestLocalFile:
    def test_a_file_cut_short_after_its_header_was_read(self, tmp_path):
        content = safetensors_bytes({"w": entry(np.ones((100, 100), np.float32))})
        file = local(content, tmp_path)
        tensor = tensor_of(file, content)
        file.path.write_bytes(content[:-1])
        with pytest.raises(CheckpointError, match=r"step7/model\.safetensors: truncated while it was read") as caught:
            tensor.rows(np.array([0]))
        assert caught.value.status == "corrupt"

    def test_a_file_removed_after_its_header_was_read(self, tmp_path):
        content = safetensors_bytes({"w": entry(np.ones((2, 2), np.float32))})
        file = local(content, tmp_path)
        tensor = tensor_of(file, content)
        file.path.unlink()
        with pytest.raises(CheckpointError, match=r"step7/model\.safetensors: cannot be read \(No such file"):
            tensor.rows(np.array([0]))

    def test_a_read_that_gives_less_than_asked_is_continued(self, tmp_path, monkeypatch):
        """As of more than 2 GiB, and on network file systems."""

        class Reluctant(io.FileIO):
            def readinto(self, buffer):
                return super().readinto(memoryview(buffer)[:1000])

        content = np.arange(10_000, dtype=np.uint16).tobytes()
        file = local(content, tmp_path)
        monkeypatch.setattr(module_of_local, "open", lambda path, *_, **__: Reluctant(path), raising=False)
        (piece,) = file.read_ranges([(1, 19_999)])
        assert bytes(piece) == content[1:19_999]

    @given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 20_000)).map(sorted), max_size=5))
    def test_any_ranges(self, tmp_path_factory, ranges):
        content = np.arange(10_000, dtype=np.uint16).tobytes()
        file = local(content, tmp_path_factory.mktemp("ranges"))
        pieces = file.read_ranges([tuple(span) for span in ranges])
        assert [bytes(piece) for piece in pieces] == [content[start:stop] for start, stop in ranges]


class TestWidening:
    def test_every_bfloat16(self):
        bits = np.arange(1 << 16, dtype=np.uint16)
        finite = bits[(bits & 0x7F80) != 0x7F80]
        widened = as_float(finite, "BF16")
        assert widened.dtype == np.float32
        np.testing.assert_array_equal(widened, from_bf16(finite))
        np.testing.assert_array_equal(np.signbit(widened), finite >= 0x8000)

    def test_in_any_memory_order(self):
        bits = to_bf16(np.arange(12, dtype=np.float32).reshape(3, 4))
        for array in (bits, np.asfortranarray(bits), bits[::2, 1:], bits.T):
            np.testing.assert_array_equal(as_float(array, "BF16"), from_bf16(array))

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_the_others_stay_as_they_are(self, dtype):
        values = np.ones((2, 2), FLOATS[dtype])
        assert as_float(values, dtype) is values


def test_a_checkpoint_lists_its_tensors_and_counts_its_numbers(tmp_path):
    tensors = neox_tensors(2, 8, 2, seed=0)
    write_checkpoint(tmp_path / "step3", tensors)
    checkpoint = open_source(tmp_path / "step3").open("step3")
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.parameters == sum(array.size for array in tensors.values())
    assert (checkpoint.revision, checkpoint.step) == ("step3", 3)
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: array.shape for name, array in tensors.items()
    }
