"""A suite on a Hub, read by the real client from a real server: the same numbers as from disk, and only the bytes they need."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hub_client import HEAD_BYTES, _private_client, serve  # noqa: F401 (fixtures)
from suites import (
    neox_tensors,
    offsets_of,
    safetensors_bytes,
    used_names,
    write_bf16,
    write_checkpoint,
    write_suite,
)

import ninscope
from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.tensors import OVERFETCH
from ninscope.exact import bands
from ninscope.networks.sampling import sampled_neurons

MODEL = "org/tiny"
WEIGHTS = "model.safetensors"
SHAPE = {"blocks": 2, "width": 32, "heads": 4}
SMALL = {"nodes_per_layer": 24, "samples": 2}
FEW = {"nodes_per_layer": 4, "samples": 1}


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """Not to be changed: all tests share it."""
    return write_suite(tmp_path_factory.mktemp("suite") / "tiny", [0, 1, 10], **SHAPE)


def branches(suite: Path) -> dict[str, Path]:
    """As Pythia is published: a branch a step, and main, which holds the last."""
    steps = {folder.name: folder for folder in suite.iterdir()}
    return {"main": suite / "step10", **steps}


@pytest.fixture
def hub(serve, suite):
    return serve({MODEL: branches(suite)})


def same_spectra(left, right):
    assert len(left.samples) == len(right.samples)
    for name in ("q", "tau", "alpha", "f", "r2", "alpha0", "width", "nodes", "edges"):
        assert np.asarray(getattr(left, name)).tobytes() == np.asarray(getattr(right, name)).tobytes(), name


def weights_of(checkpoint, wanted: tuple[int, ...] = (0, 9, 30)) -> dict[str, bytes]:
    """Rows of every tensor that the network is made of, bit for bit: what any measurement is made of."""
    weights = {}
    for name in used_names(checkpoint.tensors):
        values, position = checkpoint.tensors[name].rows(np.array(wanted))
        weights[name] = values[position].tobytes()
    assert weights
    return weights


def ranges_of(server, revision: str, name: str = WEIGHTS) -> list[tuple[int, int]]:
    """What was fetched of a file: half-open byte ranges, sorted. Whole answers are no ranges and fail here."""
    commit = server.refs[MODEL]["heads"].get(revision, revision)
    asked = [r for r in server.requests if r.is_file and r.path.endswith(f"/{commit}/{name}")]
    assert all(r.status == 206 for r in asked)
    return sorted(r.range for r in asked)


class TestWholeNetworks:
    @pytest.mark.parametrize("given", [{}, {"radii": {"log": 30}}], ids=str)
    def test_are_those_on_disk_to_the_last_bit(self, hub, suite, given):
        ours, theirs = (ninscope.measure(source, "step1", **given) for source in (MODEL, str(suite)))
        assert ours.method == "exact"
        same_spectra(ours, theirs)
        assert repr(ours.layers) == repr(theirs.layers)

    def test_every_weight_travels_once(self, hub, suite):
        ninscope.measure(MODEL, "step1", exact=True)
        raw = (suite / "step1" / WEIGHTS).read_bytes()
        offsets = offsets_of(raw)
        wanted = sorted(offsets[name] for name in used_names(neox_tensors(**SHAPE, seed=1)))
        body = 8 + int.from_bytes(raw[:8], "little")
        fetched = [span for span in ranges_of(hub, "step1") if span[0] >= body]
        assert all(one[1] <= other[0] for one, other in pairwise(fetched))
        assert all(any(a <= start and stop <= b for a, b in fetched) for start, stop in wanted)
        assert len(fetched) < len(wanted)  # neighbours come together, with the biases between them
        assert sum(b - a for a, b in fetched) < 1.05 * sum(stop - start for start, stop in wanted)

    def test_in_bands_over_the_wire(self, hub, suite, monkeypatch):
        expected = ninscope.measure(str(suite), "step1")
        monkeypatch.setattr(bands, "BAND_BYTES", 3000)
        same_spectra(ninscope.measure(MODEL, "step1"), expected)


class TestTorchFiles:
    """pytorch_model.bin over the wire: as exact, and as frugal."""

    NAME = "pytorch_model.bin"

    @pytest.fixture
    def served(self, serve, suite, tmp_path):
        torch = pytest.importorskip("torch")
        tensors = neox_tensors(seed=1, **SHAPE)
        content = io.BytesIO()
        torch.save({name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, content)
        about = (suite / "step1" / "config.json").read_bytes()
        self.content = content.getvalue()
        return serve({MODEL: {"step1": {self.NAME: content.getvalue(), "config.json": about}}}), tensors

    @pytest.mark.parametrize("given", [{}, SMALL], ids=["whole", "samples"])
    def test_the_same_numbers(self, served, suite, given):
        same_spectra(ninscope.measure(MODEL, "step1", **given), ninscope.measure(str(suite / "step1"), **given))

    def test_every_weight_travels_once_and_little_else(self, served, monkeypatch):
        server, tensors = served
        monkeypatch.setattr(hub_file, "HEAD_BYTES", 1 << 15)  # as much as holds the pickle
        ninscope.measure(MODEL, "step1", exact=True)
        used = sum(tensors[name].nbytes for name in used_names(tensors))
        (head, *spans), size = ranges_of(server, "step1", self.NAME), len(self.content)
        assert head == (0, 1 << 15)
        spans.remove((size - (1 << 15), size))  # the zip's directory
        assert all(one[1] <= other[0] for one, other in pairwise([head, *spans]))
        # Neighbours together, with the biases and local headers that lie between them.
        assert len(spans) <= SHAPE["blocks"] + 1
        assert sum(b - a for a, b in spans) <= used + 13 * 1024


class TestSameNumbers:
    def test_a_suite(self, hub, suite):
        ours = ninscope.measure_all(MODEL, **SMALL)
        theirs = ninscope.measure_all(str(suite), **SMALL)
        assert [(row.revision, row.step, row.status) for row in ours] == [
            (row.revision, row.step, row.status) for row in theirs
        ]
        assert {row.message for row in theirs} == {""}
        assert {row.message for row in ours} == {
            "unverified: only parts of model.safetensors were read, and hashes are of whole files"
        }
        assert [row.emergence for row in ours][1:] == [row.emergence for row in theirs][1:]
        assert np.isfinite([row.emergence for row in ours]).all()
        for left, right in zip(ours, theirs, strict=True):
            same_spectra(left.spectrum, right.spectrum)

    @pytest.mark.parametrize("shards", [2, 3])
    def test_sharded(self, serve, suite, tmp_path, shards):
        tensors = neox_tensors(seed=1, **SHAPE)
        serve({MODEL: {"step1": write_checkpoint(tmp_path / "sharded", tensors, shards=shards)}})
        same_spectra(ninscope.measure(MODEL, **SMALL), ninscope.measure(str(suite / "step1"), **SMALL))

    def test_bfloat16(self, serve, tmp_path):
        folder = write_bf16(tmp_path / "step1", neox_tensors(seed=1, **SHAPE, dtype=np.float32))
        serve({MODEL: {"step1": folder}})
        same_spectra(ninscope.measure(MODEL, **FEW), ninscope.measure(str(folder), **FEW))

    def test_weights_that_start_at_an_odd_byte(self, serve, tmp_path):
        tensors = neox_tensors(seed=1, **SHAPE, dtype=np.float32)
        folder = write_checkpoint(tmp_path / "step1", tensors)
        entries = {name: ("F32", array.shape, array.tobytes()) for name, array in tensors.items()}
        content = next(
            raw
            for n in range(8)
            if offsets_of(raw := safetensors_bytes(entries, 1, {"pad": "." * n}))[next(iter(tensors))][0] % 2
        )
        about = (folder / "config.json").read_bytes()
        serve({MODEL: {"step1": {WEIGHTS: content, "config.json": about}}})
        same_spectra(ninscope.measure(MODEL, **FEW), ninscope.measure(str(folder), **FEW))

    def test_weights_that_the_hub_sends_on_to_its_storage(self, serve, suite):
        serve({MODEL: branches(suite)}, redirect_lfs=True)
        same_spectra(ninscope.measure(MODEL, "step1", **SMALL), ninscope.measure(str(suite / "step1"), **SMALL))

    def test_identity_is_that_of_the_local_files(self, hub, suite):
        ours = open_source(MODEL).identify("step1")
        theirs = open_source(suite).identify("step1")
        assert (ours.content_sha256, ours.bytes, ours.step) == (
            theirs.content_sha256,
            theirs.bytes,
            theirs.step,
        )
        assert ours.commit == hub.refs[MODEL]["heads"]["step1"]
        assert hub.bytes_served(WEIGHTS) == 0  # the Hub states the hash


class TestBytes:
    def test_unused_tensors_are_never_fetched(self, hub, suite):
        ninscope.measure(MODEL, "step1", **SMALL)
        offsets = offsets_of((suite / "step1" / WEIGHTS).read_bytes())
        used = used_names(offsets)
        assert len(used) == 8
        unused = [span for name, span in offsets.items() if name not in used]
        assert len(unused) == len(offsets) - 8 > 10
        header_end = min(start for start, _ in offsets.values())
        fetched = ranges_of(hub, "step1")
        for start, stop in fetched:
            through = [span for span in unused if start < span[1] and span[0] < stop]
            assert all(start < a and b < stop and b - a <= 1024 for a, b in through), "only in passing"
        assert sum(b - a for a, b in fetched) <= header_end + 1.05 * sum(b - a for a, b in map(offsets.get, used))
        embedding = offsets["gpt_neox.embed_in.weight"]
        assert all(b <= embedding[0] or a >= embedding[1] for a, b in fetched)

    def test_whole_tensors_once_where_all_neurons_are_taken(self, hub, suite):
        ninscope.measure(MODEL, "step1", nodes_per_layer=128, samples=3)
        offsets = offsets_of((suite / "step1" / WEIGHTS).read_bytes())
        header_end = min(start for start, _ in offsets.values())
        head, header, *spans = ranges_of(hub, "step1")
        assert (head, header) == ((0, HEAD_BYTES), (HEAD_BYTES, header_end))
        assert all(
            any(a <= start and stop <= b for a, b in spans) for start, stop in map(offsets.get, used_names(offsets))
        )
        assert len(spans) <= SHAPE["blocks"] + 1

    def test_of_few_neurons_only_their_rows(self, serve, tmp_path):
        """A model of the width of a real one: the rows that are needed, plus at most the documented over-fetch."""
        tensors = neox_tensors(1, 1024, 8, seed=0, dtype=np.float16, intermediate=512)
        folder = write_checkpoint(tmp_path / "step1", tensors)
        hub = serve({MODEL: {"step1": folder}})
        parameters = {"nodes_per_layer": 8, "samples": 2, "seed": 3}
        measured = ninscope.measure(MODEL, "step1", **parameters)
        same_spectra(measured, ninscope.measure(str(folder), **parameters))

        offsets = offsets_of((folder / WEIGHTS).read_bytes())
        neurons = {
            group: np.unique(np.concatenate([sampled_neurons(3, sample, group, size, 8) for sample in range(2)]))
            for group, size in (("block0.attention", 1024), ("block0.a", 1024), ("block0.m", 512), ("output.x", 1024))
        }
        head, within = np.divmod(neurons["block0.attention"], 128)
        layer = "gpt_neox.layers.0."
        rows = {
            layer + "attention.query_key_value.weight": np.sort(
                [h * 384 + part * 128 + w for h, w in zip(head, within, strict=True) for part in range(3)]
            ),
            layer + "attention.dense.weight": neurons["block0.a"],
            layer + "mlp.dense_h_to_4h.weight": neurons["block0.m"],
            layer + "mlp.dense_4h_to_h.weight": neurons["output.x"],
        }
        fetched = ranges_of(hub, "step1")
        total = 0
        for name, wanted in rows.items():
            start, stop = offsets[name]
            row_bytes = tensors[name].shape[1] * 2
            inside = [span for span in fetched if start <= span[0] and span[1] <= stop]
            got = {row for a, b in inside for row in range((a - start) // row_bytes, (b - start) // row_bytes)}
            assert all((a - start) % row_bytes == (b - start) % row_bytes == 0 for a, b in inside)
            assert got >= set(wanted.tolist())
            size = sum(b - a for a, b in inside)
            gaps = np.diff(wanted) - 1
            small = gaps[gaps * row_bytes <= 1024].sum() * row_bytes
            assert size <= max(OVERFETCH * wanted.size * row_bytes, wanted.size * row_bytes + small)
            assert size < (stop - start) / 8
            assert len(inside) > 1
            total += size
        header_end = min(start for start, _ in offsets.values())
        assert sum(b - a for a, b in fetched) == total + header_end == hub.bytes_served(WEIGHTS)

    def test_a_byte_is_not_fetched_twice(self, hub, suite):
        ninscope.measure(MODEL, "step1", nodes_per_layer=8, samples=4)
        edges = [edge for span in ranges_of(hub, "step1") for edge in span]
        assert edges == sorted(edges)
        assert hub.bytes_served("config.json") == (suite / "step1" / "config.json").stat().st_size

    def test_metadata_requests_do_not_grow_with_the_ranges(self, serve, tmp_path):
        """A range costs one request; what is asked about the file beside that is a handful for each revision."""
        folder = write_checkpoint(tmp_path / "step1", neox_tensors(1, 512, 4, seed=0, intermediate=512))
        hub = serve({MODEL: {"step1": folder}})
        ninscope.measure(MODEL, "step1", nodes_per_layer=16, samples=2)
        files = [r for r in hub.requests if r.is_file]
        assert len(files) > 50
        assert len(hub.requests) - len(files) < 20

    def test_only_headers_are_read_on_opening(self, hub, suite):
        checkpoint = open_source(MODEL).open("step1")
        raw = (suite / "step1" / WEIGHTS).read_bytes()
        header_end = min(start for start, _ in offsets_of(raw).values())
        assert hub.bytes_served(WEIGHTS) == header_end
        assert set(checkpoint.tensors) == set(offsets_of(raw))

    def test_sharded_files_are_treated_alike(self, serve, tmp_path):
        folder = write_checkpoint(tmp_path / "step1", neox_tensors(seed=1, **SHAPE), shards=3)
        hub = serve({MODEL: {"step1": folder}})
        ninscope.measure(MODEL, **SMALL)
        for shard in sorted(folder.glob("model-*.safetensors")):
            offsets = offsets_of(shard.read_bytes())
            unused = [span for name, span in offsets.items() if name not in used_names(offsets)]
            fetched = ranges_of(hub, "step1", shard.name)
            assert fetched[0] == (0, HEAD_BYTES)
            larger = [(start, stop) for start, stop in unused if stop - start > 1024]
            assert all(b <= start or a >= stop for a, b in fetched for start, stop in larger)


class TestRevisions:
    def test_steps_are_branches(self, hub):
        source = open_source(MODEL)
        assert source.revisions() == ["step0", "step1", "step10"]
        assert source.label == MODEL

    def test_main_where_there_are_no_steps(self, serve, suite):
        serve({MODEL: {"main": suite / "step1", "dev": suite / "step0"}})
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [(row.revision, row.step, row.status) for row in rows] == [("main", None, "ok")]
        same_spectra(rows[0].spectrum, ninscope.measure(str(suite / "step1"), **SMALL))
        same_spectra(ninscope.measure(MODEL, **SMALL), rows[0].spectrum)

    @pytest.mark.parametrize("kind", ["main", "tag", "commit"])
    def test_any_revision_that_the_hub_knows_can_be_named(self, hub, suite, kind):
        names = {
            "main": "main",
            "tag": (hub.push(MODEL, "v1.0", suite / "step10", kind="tags"), "v1.0")[1],
            "commit": hub.refs[MODEL]["heads"]["step10"],
        }
        same_spectra(ninscope.measure(MODEL, names[kind], **FEW), ninscope.measure(str(suite / "step10"), **FEW))

    def test_a_branch_whose_name_holds_a_slash(self, serve, suite):
        serve({MODEL: {"seed1/step0": suite / "step0", "seed1/step10": suite / "step10", "main": suite / "step10"}})
        rows = ninscope.measure_all(MODEL, **SMALL)
        assert [(row.revision, row.step, row.status) for row in rows] == [
            ("seed1/step0", 0, "ok"),
            ("seed1/step10", 10, "ok"),
        ]

    def test_a_revision_is_read_at_one_commit(self, hub, suite):
        """A push between two reads must not mix two checkpoints."""
        checkpoint = open_source(MODEL).open("step1")
        hub.push(MODEL, "step1", suite / "step0")
        name = used_names(checkpoint.tensors)[0]
        values, position = checkpoint.tensors[name].rows(np.array([5]))
        np.testing.assert_array_equal(values[position][0], neox_tensors(seed=1, **SHAPE)[name][5])

    def test_what_was_identified_is_what_is_opened(self, hub, suite):
        """By another process, much later, on a cluster."""
        identity = open_source(MODEL).identify("step1")
        hub.push(MODEL, "step1", suite / "step0")
        name = used_names(neox_tensors(seed=1, **SHAPE))[0]
        for given, seed in ((identity, 1), (None, 0)):
            values, position = open_source(MODEL).open("step1", given).tensors[name].rows(np.array([5]))
            np.testing.assert_array_equal(values[position][0], neox_tensors(seed=seed, **SHAPE)[name][5])

    def test_files_in_folders_of_the_repository_are_not_the_checkpoint(self, serve, suite):
        files = {f"onnx/{path.name}": path.read_bytes() for path in (suite / "step0").iterdir()}
        serve({MODEL: {"main": files}})
        assert [row.status for row in ninscope.measure_all(MODEL)] == ["missing"]


def files_of(folder: Path, **changes) -> dict[str, bytes]:
    """The folder's files by name, with some replaced, or left out where the new content is None."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | changes
    return {name: content for name, content in files.items() if content is not None}
