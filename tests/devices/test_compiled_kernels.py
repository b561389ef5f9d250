"""What numba-cuda makes of the kernels, where a CUDA toolkit is installed; no GPU is needed to compile for one."""

import re
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow


def toolkit_problem() -> str:
    """What is missing to compile; empty where nothing is."""
    try:
        from cuda.bindings import nvrtc, nvvm

        nvvm.version()
        nvrtc.nvrtcGetSupportedArchs()
    except Exception as error:  # each of these libraries says it in its own way
        return str(error).splitlines()[0]
    return ""


@pytest.fixture(scope="module")
def ptx() -> dict[str, str]:
    """PTX for compute capability 9.0 of each kernel, by its name and bits."""
    if problem := toolkit_problem():
        pytest.skip(f"no CUDA toolkit to compile with: {problem}")
    from numba import cuda, types

    from ninscope.devices import cuda_kernels

    def array(dtype: types.Type) -> types.Array:
        return dtype[::1]

    def numbers(count: int) -> types.UniTuple:
        return types.UniTuple(types.int64, count)

    table = [array(dtype) for dtype in (types.int16, types.int32, types.float64, types.int64)]
    counting = [
        numbers(5),
        numbers(6),
        numbers(7),
        numbers(4),
        *table,
        numbers(2),
        array(types.int32),
        array(types.int64),
    ]
    summing = [numbers(5), types.int64, types.int64, types.int64, array(types.int64)]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        device = SimpleNamespace(compute_capability=(9, 0))
        patch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)  # there is none
        for kernel, arguments in ((cuda_kernels.count_edges, counting), (cuda_kernels.sum_squares, summing)):
            for bits in (types.int16, types.int32):
                signature = types.void(array(bits), *arguments)
                name = f"{kernel.py_func.__name__}, {bits}"
                found[name], _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0), device=False)
    return found


def instructions(text: str, name: str) -> int:
    return len(re.findall(rf"^\s*(@!?%p\d+ )?{re.escape(name)}\s", text, re.MULTILINE))


@pytest.mark.parametrize("bits", ["int16", "int32"])
@pytest.mark.parametrize("kernel", ["count_edges", "sum_squares"])
def test_kernels_are_of_one_piece_and_use_the_memories_that_are_meant(ptx, kernel, bits):
    text = ptx[f"{kernel}, {bits}"]
    assert ".func" not in text  # all device functions are part of the kernel
    assert ".local" not in text  # no thread keeps anything in the device's memory
    loads = ("ld.global.u16", "ld.global.s16") if bits == "int16" else ("ld.global.u32", "ld.global.s32")
    assert sum(instructions(text, load) for load in loads) >= 5  # four at once, then one by one
    assert instructions(text, "atom.shared.add.u32") >= 5
    assert instructions(text, "atom.global.add.u64") >= 1
    assert not re.search(r"\batom\.add", text)  # of an address that could be in any memory


@pytest.mark.parametrize("bits", ["int16", "int32"])
def test_distances_are_divided_as_ieee_754_says(ptx, bits):
    text = ptx[f"count_edges, {bits}"]
    assert instructions(text, "rcp.rn.f64") + instructions(text, "div.rn.f64") == 5
    assert instructions(text, "cvt.rni.s64.f64") == 5  # to the nearest whole number, the even one of two
    assert not re.search(r"\.(ftz|approx|full)\b", text)
    assert instructions(text, "fma.rn.f64") == 0
