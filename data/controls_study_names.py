"""What the study's texts and measures are called, in its tables and on its page."""

TEXTS = ("text", "shuffled", "uniform")

# (column, what the page calls it), in the order of the tables.
MEASURES = {
    "step": "the step itself",
    "emergence": "E",
    "alpha0": "alpha0",
    "width_w": "w",
    "emergence_growth": "E of growth alone",
    "emergence_fixed": "E at fixed norms",
    "alpha0_unit": "alpha0 at unit norms",
    "width_unit": "w at unit norms",
    "structure": "structure index",
    "matching_difference": "alpha0 of paths less matching null",
    "coupling_mlp": "coupling, MLP",
    "coupling_vo": "coupling, v-o",
    "coupling_qk": "coupling, q-k",
    "coupling_across": "coupling, across blocks",
    "spikes": "spikes",
    "spike_share": "share of spikes",
    "norm": "norm of weights",
    "distance_from_start": "distance from start",
    "distance_from_last": "distance from last",
    "sign_flips": "sign flips",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "condition_number": "condition number",
    "spectral_alpha": "spectral alpha",
    "kurtosis": "kurtosis",
    "gini": "Gini",
    "hoyer": "Hoyer",
    "kl_from_start": "KL of outputs from start",
    "change_from_start": "squared change of outputs from start",
    "kl_from_previous": "KL of outputs from last",
    "change_from_previous": "squared change of outputs from last",
}
