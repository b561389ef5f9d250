"""Models that lie in memory: their tensors as the model uses them, by the names under which they are saved."""

from ninscope.checkpoints.in_memory.held_tensor import HeldTensor
from ninscope.checkpoints.in_memory.saved_names import as_saved
from ninscope.checkpoints.in_memory.source import REVISION, InMemorySource, in_memory_source, saved_tensors

__all__ = ["REVISION", "HeldTensor", "InMemorySource", "as_saved", "in_memory_source", "saved_tensors"]
