"""A checkpoint's activations, layer by layer: how monosemantic they are, without training anything."""

import torch

from ninscope.neurons.finetuning.recipe import ALL_LAYERS, Looking
from ninscope.neurons.finetuning.training import device_of, history_of
from ninscope.neurons.memel.finding import layers_of
from ninscope.neurons.phi import PhiSummary, phi_of_layers, together
from ninscope.neurons.tasks.evaluation import evaluating, moved
from ninscope.neurons.tasks.task import Base, Task
from ninscope.neurons.torch_threads import threads


def look_at(task: Task, base: Base, how: Looking) -> dict[str, PhiSummary]:
    """phi of held-out examples by statistics of training examples, for every layer and for all layers together (ALL_LAYERS).

    Raises RequestError: the base cannot do the task, no such layers. Raises CheckpointError (nonfinite).
    """
    device = device_of(how.device)
    with threads(how.threads):
        torch.manual_seed(0)  # for a head that the base lacks, which has no part in its body's activations
        model = task.model(base).to(device)
        layers = layers_of(model, how.layers)
        history = (task.batch(examples) for examples in history_of(task.train_size, how.batch_size, how.history))
        with evaluating(model):
            distributions = phi_of_layers(
                model,
                layers,
                lambda batch: task.loss(model, moved(batch, device)),
                history,
                task.held_out(how.batch_size),
                how.neurons,
                how.epsilon,
            )
    summaries = {name: distribution.summary() for name, distribution in distributions.items()}
    return summaries | {ALL_LAYERS: together(distributions.values()).summary()}
