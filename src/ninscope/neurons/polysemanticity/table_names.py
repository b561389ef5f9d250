"""What the table `polysemanticity` calls layers and phases, and which measures are its columns. Needs nothing.

Those who measure, those who read the table and the stage that fills it share these names.
"""

ALL_LAYERS = "all"  # the layer that is all hidden layers together
TRAINING, PRUNED, RETRAINED = "training", "pruned", "retrained"  # phases
COUNTS = ("neurons", "dead", "inactive")  # of these, whole numbers
DEGREES = {"P": "P", "P_live": "P of live neurons", "P_samples": "P at the samples"}
"""Degrees of polysemanticity: columns, and what a reader calls them. P is the thesis'."""
MEASURED = (
    *COUNTS, *DEGREES, "entropy", "monosemanticity", "D", "loss", "train_loss", "alpha0", "width", "emergence",
    "emergence_growth", "emergence_fixed", "alpha0_unit", "width_unit", "structure", "phi_mean", "phi_p99",
)  # fmt: skip
"""Numbers of a layer, or of the network as one: columns of the table, in its order."""
NEURON_MEASURES = ("dead", "dormant", "hash_encoding", "lazy", "phi", "universal")
"""Measures of `ninscope.neurons.observatory` that can be taken of a perceptron without labels: they read hidden neurons alone."""
NEURON_TRUTHS = {
    "P": "P", "P_live": "P of live neurons", "P_samples": "P at the samples", "P_samples_live": "P at the samples, live neurons",
}  # fmt: skip
"""What a measure's values of single neurons are compared with, and what a reader calls it. Without live, dead neurons have 0."""
INPUT_WEIGHT = "input_weight"  # mean absolute weight of a neuron's inputs: what can be said without running the network


def dropout_name(dropout: float) -> str:
    """A dropout in figures: "without dropout", "dropout 0.5"."""
    return f"dropout {dropout:g}" if dropout else "without dropout"
