"""How this pass of the tests runs: compiled kernels, or (NUMBA_DISABLE_JIT=1) the same kernels as plain Python."""

import os

JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"
