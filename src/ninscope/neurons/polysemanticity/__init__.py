"""How many features each neuron represents, where the features are known: polysemanticity and its measures.

    from ninscope.neurons.polysemanticity import degree_of_polysemanticity, feature_gradients, neurons_of
    gradients = feature_gradients(neurons_of(model, encode=encoder), features=128)   # float64 [neurons, features]
    degree_of_polysemanticity(gradients)                                            # float64 [neurons]

Source: the thesis "polysemanticity under pruning", sections 2.2.3 and 3.3; docs/method.md. Names are imported when first used:
measures of gradients need numpy and scipy alone, whatever runs a model needs torch.
"""

from importlib import import_module

_LAZY = {
    "degree_of_polysemanticity": "measures",
    "normalised_entropy": "measures",
    "monosemanticity": "measures",
    "capacity": "measures",
    "feature_dimensionality": "measures",
    "total_feature_dimensionality": "measures",
    "feature_gradients": "gradients",
    "ModelNeurons": "model_neurons",
    "neurons_of": "model_neurons",
    "EXPERIMENTS": "experiments",
    "Experiment": "experiments",
    "FeatureModel": "feature_model",
    "SeedVectors": "feature_model",
    "hidden_layer_sizes": "feature_model",
    "random_feature_model": "feature_model",
    "seed_vectors": "feature_model",
    "FeatureAutoencoder": "autoencoder",
    "train_autoencoder": "autoencoder",
    "ToyData": "toy_data",
    "make_toy_data": "toy_data",
    "Perceptron": "perceptron",
    "initial_perceptron": "perceptron",
    "Trained": "training",
    "TrainingRun": "training",
    "train_together": "training",
    "Pruned": "pruning",
    "largest_neuron_ratio": "pruning",
    "neuron_importance": "pruning",
    "neuron_ratio_for": "pruning",
    "prune": "pruning",
    "NetworkMeasures": "structure",
    "PreparedStart": "structure",
    "chain": "structure",
    "network_measures": "structure",
    "prepared_start": "structure",
    "sub_network": "structure",
    "PhiMeasures": "perceptron_phi",
    "phi_measures": "perceptron_phi",
    "phi_of_activations": "perceptron_phi",
    "LayerMeasures": "measuring",
    "LayerResponses": "measuring",
    "Probe": "measuring",
    "SeedMean": "over_seeds",
    "holm": "over_seeds",
    "mean_over_seeds": "over_seeds",
    "polysemanticity_slopes": "slopes",
    "seed_slopes": "slopes",
    "verdicts_in_words": "slopes",
    "polysemanticity_correlations": "correlations",
    "LayerNeurons": "neuron_correlations",
    "Unmeasured": "neuron_values",
    "neurons_of_network": "neuron_values",
    "polysemanticity_neuron_correlations": "neuron_correlations",
    "control_directions": "features",
    "mean_difference_directions": "features",
    "typical_strengths": "features",
    "NeuronPolysemanticity": "trained_models",
    "polysemanticity_of_module": "trained_models",
    "polysemanticity_of_neurons": "trained_models",
    "AutoencoderQuality": "sparse_autoencoders",
    "SparseAutoencoder": "sparse_autoencoders",
    "load_sparse_autoencoder": "sparse_autoencoder_files",
    "save_sparse_autoencoder": "sparse_autoencoder_files",
    "train_sparse_autoencoder": "sparse_autoencoder_training",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> object:
    if name in _LAZY:
        try:
            return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            needs = f"{name} needs torch, which is not installed: pip install 'ninscope[polysemanticity]'"
            raise ModuleNotFoundError(needs, name="torch") from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
