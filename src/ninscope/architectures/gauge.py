"""What a family says of its model's function beside the wiring, as data: which rescalings leave the function as it is.

Names of tensors stand without what may stand before them in a file, matrices have the names of `Architecture.matrices`, and
layers those of node layers. Nothing of this is part of a wiring's digest: it joins no two neurons.
"""

from dataclasses import dataclass

READ, STREAM, ADDED, WRITTEN = "read", "stream", "added", "written"
PLACES = (READ, STREAM, ADDED, WRITTEN)

STORED, FIXED = "stored", "fixed"  # how weights are read
GAUGES = (STORED, FIXED)


@dataclass(frozen=True)
class Gain:
    """A vector that multiplies neurons, one number a neuron: mostly the gain of a normalisation.

    tensor: its name; the factors are offset + what is stored (Gemma: 1 + w). centred: the normalisation subtracts the mean over
    neurons (LayerNorm; RMSNorm does not).
    place: what is scaled.
    - "read": what `readers` read, and nothing else (a normalisation before a part: GPT-2, llama).
    - "stream": the residual stream itself, which `readers` read and which is added on as well (a normalisation behind a part, of
      the sum: BERT; without readers where each reads it by way of a normalisation of its own: CLIP).
    - "added": what `writers` wrote, normalised by itself, before it is added to the stream (OLMo 2, the second ones of Gemma 2).
    - "written": what `writers` wrote, with no normalisation between (timm's LayerScale).
    readers, writers: matrices. Each neuron that is scaled is a column of every reader, and a row of every writer.
    """

    tensor: str
    place: str = READ
    readers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    offset: float = 0.0
    centred: bool = False

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"{self.tensor}: place {self.place!r} is not one of {', '.join(PLACES)}")


@dataclass(frozen=True)
class Rotary:
    """Which dimensions of a head are turned together, two by two, by the position.

    dimensions: how many, an even number, the first ones of the head; the others are not turned. interleaved: 2i and 2i + 1 are a
    pair; otherwise i and i + dimensions / 2 are.
    """

    dimensions: int
    interleaved: bool = False

    def pair_of(self, dimension: int) -> int:
        """A number that dimensions of a head have in common where they are turned together: that of the first of them."""
        if dimension >= self.dimensions:
            return dimension
        return dimension - dimension % 2 if self.interleaved else dimension % (self.dimensions // 2)


@dataclass(frozen=True)
class HeadNorm:
    """A normalisation of q or k (RMSNorm), behind the matrix that gives it and before the position turns it, or after.

    tensor: the gain's name, "" where there is none. offset: as in Gain. per_head: each head is normalised by itself, and all
    share one gain [head_dim]; otherwise all heads are normalised as one vector, with a gain of its size.
    """

    tensor: str = ""
    offset: float = 0.0
    per_head: bool = True


@dataclass(frozen=True)
class Attention:
    """One attention.

    q, k, v, c: node layers. output: the matrix that leads from c to the stream. head_dim: neurons of a head, of each of the four
    layers; 0 where nothing says it (timm). shared: so many heads of q (and of c) read each head of k (and v): heads number
    n * shared to (n + 1) * shared - 1 read head n. rotary: None where positions turn nothing. q_norm, k_norm: None where q and k
    are used as they are. clipped: values of q, k and v are cut off at a bound, so no factor may move from one to the other.
    """

    q: str
    k: str
    v: str
    c: str
    output: str
    head_dim: int
    shared: int = 1
    rotary: Rotary | None = None
    q_norm: HeadNorm | None = None
    k_norm: HeadNorm | None = None
    clipped: bool = False


@dataclass(frozen=True)
class Units:
    """Hidden neurons of an MLP that may be rescaled: what leads to each may be multiplied by c, and what leaves it divided by c.

    entered: the node layers that weights lead to, each of which may be rescaled by itself: those behind which stands nothing but
    a positively homogeneous function (ReLU), or nothing (the up projection of a gated MLP, which is multiplied with its gate).
    left: the node layer of the same size that weights leave. Factors c must be positive.
    """

    entered: tuple[str, ...]
    left: str


@dataclass(frozen=True)
class Detour:
    """A weight block whose place in the wiring is a fiction: the chain of a model whose blocks are parallel (GPT-NeoX).

    source, target: of the block, as in the wiring. reads, writes: the node layers whose neurons its weights really join.
    """

    source: str
    target: str
    reads: str
    writes: str


@dataclass(frozen=True)
class Skip:
    """A skip connection that a model has and its wiring leaves out: neuron i of `source` is added to neuron i of `target`."""

    source: str
    target: str


@dataclass(frozen=True)
class Gauge:
    """All that a family says of its models. Where an architecture has one, every rescaling is in it that is known to be free.

    gains: of every normalisation with a gain that a matrix reads or that scales what a matrix wrote; not of the one before a head
    that is left out. attentions, units, detours, skips: all of them.
    """

    gains: tuple[Gain, ...] = ()
    attentions: tuple[Attention, ...] = ()
    units: tuple[Units, ...] = ()
    detours: tuple[Detour, ...] = ()
    skips: tuple[Skip, ...] = ()
