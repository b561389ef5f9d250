"""MEmeL, Monosemanticity-based Emergence Learning (its paper, section 3.3): inhibit monosemantic neurons while a model trains.

from ninscope.neurons.memel import insert_memel, remove_memel
insert_memel(model, layers="middle:4")     # hooks MEmeL after the four middle attention layers
...                                        # train as ever
remove_memel(model)                        # the model is as it was
"""

from ninscope.neurons.inhibition import METHODS
from ninscope.neurons.memel.inserting import insert_memel, remove_memel
from ninscope.neurons.memel.layer import MEmeL
from ninscope.neurons.memel.scale import MonosemanticScale
from ninscope.neurons.selection import NeuronSelection

__all__ = ["METHODS", "MEmeL", "MonosemanticScale", "NeuronSelection", "insert_memel", "remove_memel"]
