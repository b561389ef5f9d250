"""ninscope: the network of neurons inside a model, measured from its weights while it trains.

    import ninscope
    spectrum = ninscope.measure("path/or/org/repo", revision="step1000")   # .alpha0 .width .q .tau .alpha .f
    ninscope.emergence(spectrum, ninscope.measure("path/or/org/repo", revision="step0"))
    ninscope.audit("org/repo")                                             # DataFrame, one row a revision
    run = ninscope.open_run("runs/demo"); run.table("emergence")           # pandas DataFrame
    run.query("SELECT step, emergence FROM emergence"); ninscope.open_runs(["runs/demo", "runs/mine"])

Names are imported when first used, so that `import ninscope` is quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "measure": "ninscope.measuring",
    "measure_all": "ninscope.measuring",
    "Parameters": "ninscope.parameters",
    "Measurement": "ninscope.measurement",
    "MeasuredRows": "ninscope.measured_rows",
    "audit": "ninscope.auditing",
    "compare": "ninscope.comparing",
    "Comparison": "ninscope.comparison",
    "sampling_bias": "ninscope.bias",
    "interactions": "ninscope.interacting",
    "weight_statistics": "ninscope.matrix_statistics",
    "emergence": "ninscope.multifractal.emergence",
    "spectrum_from_distances": "ninscope.multifractal.spectrum",
    "node_fractal_dimensions": "ninscope.multifractal.spectrum",
    "Spectrum": "ninscope.multifractal.spectrum",
    "network": "ninscope.exporting",
    "Network": "ninscope.networks.graph",
    "path_distances": "ninscope.networks.shortest_paths",
    "path_histograms": "ninscope.networks.shortest_paths",
    "heavy_tail": "ninscope.networks.heavy_tail",
    "box_covering": "ninscope.multifractal.box_covering",
    "open_run": "ninscope_pipeline.opened_run",
    "open_runs": "ninscope_pipeline.opened_runs",
    "compare_runs": "ninscope_pipeline.comparing_runs",
    "NinscopeError": "ninscope.errors",
    "RequestError": "ninscope.errors",
    "CheckpointError": "ninscope.errors",
}
_PACKAGES = ("neurons", "integrations")  # parts with names of their own: single neurons; inside a training run
__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'ninscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES) | set(_PACKAGES))
