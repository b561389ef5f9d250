"""Where weights are counted: which devices have kernels, and what is said of those that have none."""

import importlib.util
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ninscope import devices


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch):
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    devices._kernel_of.cache_clear()
    yield
    devices._kernel_of.cache_clear()


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_a_device_without_kernels_is_named_once(device):
    with pytest.warns(UserWarning, match=f"weights on {device} are copied to the CPU in bands .* no kernels"):
        assert devices.kernel_of(device) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert devices.kernel_of(device) is None


def test_numba_cuda_that_is_missing_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(
        UserWarning, match=r"numba-cuda is not installed \(pip install 'ninscope\[cuda13\]', or cuda12\)"
    ):
        assert devices.kernel_of("cuda") is None


def test_a_gpu_is_counted_on_or_it_says_why_not():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        engine = devices.kernel_of("cuda")
    reason = r"weights on cuda are copied .* numba-cuda compiles nothing here \(.+\); pip install 'ninscope\[cuda13\]', or cuda12"
    assert (engine is None) == any(re.search(reason, str(warning.message)) for warning in told)


def test_a_cpu_has_kernels_under_the_simulator_alone(monkeypatch):
    assert devices.kernel_of("cpu") is None
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert devices.kernel_of("cpu") is not None


def test_counting_where_there_is_no_kernel_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="no kernel counts weights on cpu"):
        devices.device_square_sums(torch.zeros(2, 2))


def test_importing_it_takes_neither_torch_nor_numba_cuda():
    code = "import sys, ninscope.devices; print([name for name in ('torch', 'numba_cuda') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_default_streams_wait_for_the_callers(monkeypatch):
    """No GPU is at hand: what torch would be asked for, of two GPUs, of which one trains on a stream of its own."""
    done = []

    class Stream(str):
        def synchronize(self):
            done.append(f"waits for {self}")

    @contextmanager
    def stream(one):
        done.append(f"on {one}")
        yield
        done.append(f"no more on {one}")

    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        current_stream=lambda number: Stream(["default 0", "own 1"][number]),
        default_stream=lambda number: Stream(f"default {number}"),
        stream=stream,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with devices.default_streams():
        assert done == ["waits for own 1", "on default 1"]
    assert done[2:] == ["no more on default 1"]
    cuda.is_initialized = lambda: False
    with devices.default_streams():
        assert len(done) == 3
