"""Bytes that come from a Hub in ranges: where nearly all of a file is used its hash is checked, elsewhere that is told."""

import hashlib
from itertools import count, pairwise

import lora_adapters
import numpy as np
import pytest
from hub_client import _private_client, serve  # noqa: F401  fixtures
from hub_server import Fault
from safetensors.numpy import save_file
from suites import neox_tensors, write_checkpoint

import ninscope
from ninscope.checkpoints.hub import file as hub_file
from ninscope.checkpoints.hub.range_digest import RangeDigest, RepeatedDigest
from ninscope.checkpoints.source import open_source
from ninscope.checkpoints.verification import without_unverified
from ninscope.errors import CheckpointError
from ninscope.neurons.finetuning.bases import base_of

torch = pytest.importorskip("torch")
prune = __import__("torch.nn.utils.prune", fromlist=["prune"])

OTHER = "its bytes are not those whose hash the Hub states"
UNVERIFIED = "unverified: only parts of {} were read, and hashes are of whole files"
SHAPE = {"blocks": 11, "width": 96, "heads": 2, "seed": 3}  # block 10 lies between 1 and 2 in the file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that is nearly all matrices of blocks."""
    return write_checkpoint(tmp_path_factory.mktemp("blocks") / "main", neox_tensors(**SHAPE, vocabulary=1))


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    """A model of which half is vocabulary, in two shards."""
    return write_checkpoint(
        tmp_path_factory.mktemp("words") / "main", neox_tensors(**SHAPE | {"blocks": 1}, vocabulary=400), shards=2
    )


def ranges_of(server, name=".safetensors"):
    return [request for request in server.requests if request.range and request.path.endswith(name)]


def test_a_file_that_is_used_whole_is_verified(serve, model):
    server = serve({"org/model": {"main": model}})
    found, local = ninscope.measure("org/model"), ninscope.measure(model)
    assert (found.alpha0, found.width, found.message) == (local.alpha0, local.width, local.message)
    fetched = sum(stop - start for start, stop in (request.range for request in ranges_of(server)))
    assert fetched == (model / "model.safetensors").stat().st_size  # all of it, and once


def test_bits_that_flip_in_a_long_header_are_noticed(serve, model):
    """It comes before anything is checked, and a name in it that changes may do no harm."""
    at = (model / "model.safetensors").read_bytes().rindex(b"input_layernorm")
    flipped = []

    def flips(request):
        if not request.range or not request.range[0] <= at < request.range[1]:
            return None
        flipped.append(request)
        return Fault(flip_bit=8 * (at - request.range[0])) if len(flipped) == 1 else None

    server = serve({"org/model": {"main": model}})
    server.faults.append(flips)
    with pytest.raises(CheckpointError, match=OTHER):
        ninscope.measure("org/model")
    assert flipped[0].range[0] > 0


@pytest.mark.parametrize("asked", [{}, {"radii": {"log": 20}}])
def test_bits_that_flip_on_the_way_are_noticed(serve, model, asked):
    """Also in the second of two passes alone: the first and the rest were right."""
    server = serve({"org/model": {"main": model}})
    ninscope.measure("org/model", **asked)
    last = len(ranges_of(server)) - (2 if asked else 1)
    numbers = count()

    def flips(request):
        is_range = request.range and request.path.endswith(".safetensors")
        return Fault(flip_bit=8) if is_range and next(numbers) == last else None

    server.faults.append(flips)
    with pytest.raises(CheckpointError, match=f"model.safetensors: {OTHER}; run again") as raised:
        ninscope.measure("org/model", **asked)
    assert (raised.value.status, raised.value.passing) == ("corrupt", True)


def test_what_is_read_in_part_is_called_unverified(serve, model, wordy):
    serve({"org/model": {"main": model}, "org/wordy": {"main": wordy}})
    assert UNVERIFIED.format("model-00002-of-00002.safetensors") in ninscope.measure("org/wordy").message
    sampled = {"nodes_per_layer": 8, "samples": 1}
    assert "unverified" not in ninscope.measure("org/model").message
    assert UNVERIFIED.format("model.safetensors") in ninscope.measure("org/model", **sampled).message
    assert "unverified" not in ninscope.measure(wordy).message
    assert "unverified" not in ninscope.measure(wordy, **sampled).message


def spectrally_normed(module):
    return torch.nn.utils.parametrizations.spectral_norm(module)


def pruned(module):
    return prune.l1_unstructured(module, "weight", amount=0.3)


@pytest.mark.parametrize("reparametrise", [torch.nn.utils.parametrizations.weight_norm, spectrally_normed, pruned])
def test_reparametrised_weights_are_verified(serve, tmp_path, reparametrise):
    """Masks are half of a file, norms and vectors beside narrow matrices much of it; spectral_norm reads the weight twice."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(24, 24, bias=False) for _ in range(6)))
    for layer in model:
        reparametrise(layer)
    (folder := tmp_path / "main").mkdir()
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    server = serve({"org/model": {"main": folder}})
    found, local = ninscope.measure("org/model"), ninscope.measure(folder)
    assert (found.alpha0, found.width, found.message) == (local.alpha0, local.width, local.message)
    last, numbers = len(ranges_of(server)) - 1, count()
    server.faults.append(lambda r: Fault(flip_bit=8) if r.range and next(numbers) == last else None)
    with pytest.raises(CheckpointError, match=OTHER):
        ninscope.measure("org/model")


def test_an_adapter_and_its_base_are_verified(serve, tmp_path):
    adapter, base, _ = lora_adapters.written(tmp_path, "llama", r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    serve({"org/adapter": {"main": adapter}, "org/base": {"main": base}})
    assert "unverified" not in ninscope.measure("org/adapter", base=str(base)).message
    assert (
        UNVERIFIED.format("model.safetensors") in ninscope.measure("org/adapter", base="org/base").message
    )  # embeddings


@pytest.mark.parametrize("number", [1, 5])
def test_bases_of_fine_tunes_are_checked(serve, wordy, number):
    """All of every shard is, though half is vocabulary and no network's."""
    server = serve({"org/wordy": {"main": wordy}})
    checkpoint = open_source("org/wordy").open("main")
    base = base_of(checkpoint, "wordy", None, None)
    assert all(tensor.file.is_verified for tensor in checkpoint.tensors.values())
    local = base_of(open_source(wordy).open("main"), "wordy", None, None)
    assert all(torch.equal(local.tensors[name], tensor) for name, tensor in base.tensors.items())
    numbers = count()
    checkpoint = open_source("org/wordy").open("main")
    server.faults.append(lambda r: Fault(flip_bit=8) if r.range and next(numbers) == number else None)
    with pytest.raises(CheckpointError, match=OTHER):
        base_of(checkpoint, "wordy", None, None)


@pytest.mark.parametrize(("head", "is_verified"), [(256, False), (11_000, True)])
def test_the_head_is_counted(serve, tmp_path, monkeypatch, head, is_verified):
    """The file begins with 9 kB of vocabulary, a twenty-fifth of it, which may come with the header."""
    model = write_checkpoint(tmp_path / "main", neox_tensors(**SHAPE | {"blocks": 1}, vocabulary=24))
    monkeypatch.setattr(hub_file, "HEAD_BYTES", head)
    serve({"org/model": {"main": model}})
    assert ("unverified" not in ninscope.measure("org/model").message) == is_verified


class TestRangeDigest:
    content = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()

    digest = RangeDigest

    def noted(self, cuts, digest=None, content=None):
        found = self.digest(digest or hashlib.sha256(self.content).hexdigest(), len(self.content))
        for start, stop in cuts:
            found.note(start, memoryview(content or self.content)[start:stop])
        return found

    def fetch(self, start, stop):
        return memoryview(self.content)[start:stop]

    def test_pieces_in_any_order(self):
        for seed in range(20):
            random = np.random.default_rng(seed)
            edges = [0, *sorted(random.choice(np.arange(1, 5000), 12, replace=False).tolist()), 5000]
            cuts = list(pairwise(edges))
            random.shuffle(cuts)
            absent = cuts.pop()
            assert self.noted(cuts).confirmed(self.fetch, absent[1] - absent[0]) is True
            assert self.noted(cuts).confirmed(self.fetch, absent[1] - absent[0] - 1) is None
            wrong = bytearray(self.content)
            wrong[cuts[0][0]] ^= 1
            assert self.noted(cuts, content=bytes(wrong)).confirmed(self.fetch, 5000) is False

    def test_hash_of_git(self):
        blob = hashlib.sha1(b"blob 5000\0" + self.content).hexdigest()
        assert self.noted([(0, 5000)], f"git-{blob}").confirmed(self.fetch, 0) is True

    @pytest.mark.parametrize("cuts", [[(0, 3000), (1000, 5000)], [(4000, 5000), (4000, 5000)], [(10, 40), (20, 50)]])
    def test_bytes_that_come_twice_are_not_confirmed(self, cuts):
        """One of the two may be wrong, and both were used."""
        assert self.noted(cuts).confirmed(self.fetch, 5000) is None

    def test_a_full_disk_gives_up(self, monkeypatch):
        monkeypatch.setattr("ninscope.checkpoints.hub.range_digest.FREE_SHARE", 0)
        assert self.noted([(4000, 5000), (0, 4000)]).confirmed(self.fetch, 0) is None


class TestRepeatedDigest(TestRangeDigest):
    """The same, where bytes may come again."""

    digest = RepeatedDigest

    @pytest.mark.parametrize("cuts", [[(0, 3000), (1000, 5000)], [(4000, 5000), (4000, 5000)], [(10, 40), (20, 50)]])
    def test_bytes_that_come_twice_are_not_confirmed(self, cuts):
        """They are where they are the same both times, and wrong where they are not, whichever of the two is right."""
        assert self.noted(cuts).confirmed(self.fetch, 5000) is True
        again = bytearray(self.content)
        again[cuts[1][0]] ^= 1
        for first, second in ((self.content, bytes(again)), (bytes(again), self.content)):
            found = RepeatedDigest(hashlib.sha256(self.content).hexdigest(), len(self.content))
            for (start, stop), content in zip(cuts, (first, second), strict=True):
                found.note(start, memoryview(content)[start:stop])
            assert found.confirmed(self.fetch, 5000) is False


def test_only_that_clause_is_left_out():
    clause = UNVERIFIED.format("model.safetensors")
    assert without_unverified(f"a; {clause}; b; c") == "a; b; c"
    assert without_unverified(clause) == ""


class TestServersThatKnowNoRanges:
    """All of the file is fetched, and its hash checked: nothing is unverified, whatever is read of it."""

    def ignoring(self, serve, model, after):
        """A server that honours so many ranges of the weights, and no more."""
        server = serve({"org/model": {"main": model}})
        asked = count()
        server.faults.append(lambda r: Fault(ignore_range=True) if r.range and next(asked) >= after else None)
        return server

    @pytest.mark.parametrize("asked", [{}, {"nodes_per_layer": 16, "samples": 2}])
    def test_is_verified(self, serve, wordy, asked):
        self.ignoring(serve, wordy, 0)
        assert ninscope.measure("org/model", **asked).message == ninscope.measure(wordy, **asked).message

    def test_what_came_as_a_range_before_is_not(self, serve, wordy):
        self.ignoring(serve, wordy, 3)
        assert "unverified: only parts of" in ninscope.measure("org/model", nodes_per_layer=16, samples=2).message
