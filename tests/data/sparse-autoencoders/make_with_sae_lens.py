"""Made everything else in this folder: small autoencoders as sae-lens 6.54.12 saves them, and what it computes with them.

    pip install torch==2.13.0 sae-lens==6.54.12
    python tests/data/sparse-autoencoders/make_with_sae_lens.py tests/data/sparse-autoencoders

Every folder has 6 neurons and 8 features. Numbers are random (seed 0), and the decoder's rows have other lengths than 1 before
they are saved. expected.safetensors holds activations [5, 6], and for each folder that can be read its features [5, 8] and
reconstruction [5, 6], as sae-lens computes them in float32 after it loaded the folder (topk-training: by the autoencoder that was
saved, since a training state is not loaded for inference). License of these files: this project's; nothing of sae-lens is in them.
"""

import sys
from pathlib import Path

import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import save_file

WIDTH, FEATURES, SAMPLES = 6, 8, 5
SIZES = {"d_in": WIDTH, "d_sae": FEATURES, "decoder_init_norm": None}


def metadata():
    return sae_lens.saes.sae.SAEMetadata(model_name="random", hook_name="blocks.0.mlp.hook_post")


def training(name, **settings):
    """A training autoencoder of a kind, with random numbers."""
    config_class = getattr(sae_lens.saes, f"{name}TrainingSAEConfig")
    model = getattr(sae_lens.saes, f"{name}TrainingSAE")(config_class(**SIZES, **settings, metadata=metadata()))
    randomise(model)
    return model


@torch.no_grad()
def randomise(model):
    for key, tensor in sorted(model.named_parameters()):
        tensor.copy_(torch.randn(tensor.shape) * (0.3 if tensor.ndim == 1 else 0.6))
        if key == "threshold":
            tensor.copy_(tensor.abs())


def stepped(model, activations):
    """After some training steps, so that its threshold has moved; batch of 64."""
    for step in range(60):
        batch = activations[torch.randint(len(activations), (64,))] + 0.1 * torch.randn(64, WIDTH)
        model.training_forward_pass(TrainStepInput(batch, {}, None, step, False))
    return model


def main(folder):
    torch.manual_seed(0)
    activations = torch.randn(SAMPLES, WIDTH)
    expected = {"activations": activations}
    inference = {
        "standard": training("Standard"),
        "standard-uncentred": training("Standard", apply_b_dec_to_input=False),
        "standard-layer-norm": training("Standard", normalize_activations="layer_norm"),
        "standard-constant-norm": training("Standard", normalize_activations="constant_norm_rescale"),
        "standard-bfloat16": training("Standard", dtype="bfloat16"),
        "jumprelu": training("JumpReLU"),
        "gated": training("Gated"),
        "topk": training("TopK", k=3),
        "topk-not-rescaled": training("TopK", k=3, rescale_acts_by_decoder_norm=False),
        "batchtopk": stepped(training("BatchTopK", k=2.0), activations),
        "matryoshka": stepped(training("MatryoshkaBatchTopK", k=2.0, matryoshka_widths=[3, 8]), activations),
    }
    for name, model in inference.items():
        model.save_inference_model(folder / name)
        add(expected, name, sae_lens.SAE.load_from_disk(folder / name, dtype="float32"), activations)
    model = training("TopK", k=3)
    model.save_model(folder / "topk-training")
    add(expected, "topk-training", model, activations)
    inference["batchtopk"].save_model(folder / "batchtopk-training")
    sizes = {"d_in": WIDTH, "d_sae": FEATURES, "d_out": 4, "apply_b_dec_to_input": False}
    transcoder = sae_lens.saes.Transcoder(sae_lens.saes.TranscoderConfig(**sizes, metadata=metadata()))
    transcoder.save_model(folder / "transcoder")
    save_file(expected, folder / "expected.safetensors", {"made_by": f"sae-lens {sae_lens.__version__}"})


@torch.no_grad()
def add(expected, name, model, activations):
    features = model.encode(activations)
    assert 0 < (features > 0).float().mean() < 1, name
    expected[f"{name}/features"] = features.clone()
    expected[f"{name}/reconstruction"] = model.decode(features).clone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
