"""What `ninscope measure` and `ninscope audit` import: a second of libraries that only other commands use stays out."""

import subprocess
import sys

HEAVY = (
    "altair",
    "dask",
    "distributed",
    "igraph",
    "matplotlib",
    "networkx",
    "pandas",
    "pyarrow",
    "scipy.sparse",
    "torch",
    "zarr",
)


def test_measure_imports_only_what_it_uses():
    code = (
        "import sys\n"
        "import ninscope_pipeline.cli, ninscope_pipeline.display, ninscope.auditing, ninscope.measuring\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
