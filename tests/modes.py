"""How this pass of the tests runs: compiled kernels, or (NUMBA_DISABLE_JIT=1) the same kernels as plain Python; its seed."""

import os

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
SEED = int(os.environ.get("NINSCOPE_TEST_SEED", "20240601"))
