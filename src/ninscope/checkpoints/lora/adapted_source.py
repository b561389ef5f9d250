"""A source of adapters, each merged into one base: every revision is the base with that adapter in it."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ninscope.checkpoints.file_names import ADAPTER_CONFIG, ADAPTER_NAMES
from ninscope.checkpoints.identity import FileIdentity, Identity
from ninscope.checkpoints.lora.adapter import adapter_of
from ninscope.checkpoints.lora.merged import merged_checkpoint
from ninscope.checkpoints.lora.storage import is_turned, may_be_turned
from ninscope.checkpoints.tensors import Checkpoint
from ninscope.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from ninscope.checkpoints.source import Source

HUB_BRANCH = "main"
TURNED = "[in, out] whatever the settings say\n"
_KEPT = 16
_LOCK = threading.Lock()
_BASES: dict[str, Identity] = {}  # by fingerprint, the latest few


@dataclass(frozen=True)
class AdaptedSource:
    """adapters: whose revisions these are; base: where the base is; base_revision: which revision of that."""

    adapters: "Source"
    base: "Source"
    base_revision: str

    @property
    def label(self) -> str:
        return self.adapters.label

    @property
    def kind(self) -> str:
        """Rows are fetched where the base is; the adapters are small."""
        return self.base.kind

    def revisions(self) -> list[str]:
        return self.adapters.revisions()

    def names(self) -> list[str]:
        return self.adapters.names()

    def step_of(self, revision: str) -> int | None:
        return self.adapters.step_of(revision)

    def models_of(self, revision: str) -> tuple[str, ...]:
        """Those of the adapter and of its base, with which it is compared too."""
        return (*self.adapters.models_of(revision), *self.base.models_of(self.base_revision))

    def identify(
        self, revision: str, known: Mapping[str, FileIdentity] | None = None, thorough: bool = True
    ) -> Identity:
        """What the adapter's weights (few, and always hashed whole), its settings and the base are. Raises CheckpointError."""
        own = self.adapters.identify(revision, known)
        if own.settings_sha256 is None:
            raise CheckpointError(
                "unsupported", f"{revision}: holds a model's own weights, no adapter; leave the base out"
            )
        base = self._identified_base(known, thorough)
        return replace(own, base=base, merging=self._merging(own, base))

    def _merging(self, own: Identity, base: Identity) -> str:
        """TURNED where the adapter has square updates of matrices that are stored [in, out], and its settings do not say so.

        Earlier versions took them for [out, in], so what they stored is not this adapter's.
        """
        if not own.names_turned:
            return ""
        try:
            adapter = self.adapters.open(own.revision, own)
            factors = adapter_of(adapter.config[ADAPTER_CONFIG], adapter.tensors).factors
            square = [of.module for of in factors if of.pair == of.pair[::-1] and may_be_turned(of.module)]
            model_type = self.base.open(self.base_revision, base).config.get("model_type") if square else None
        except CheckpointError:  # it is told when it is opened
            return ""
        return TURNED if any(is_turned(model_type, module) for module in square) else ""

    def _identified_base(self, known: Mapping[str, FileIdentity] | None, thorough: bool) -> Identity:
        """Hashing a base takes long, and all adapters share it: once in a process, as long as its files are the same."""
        state = self.base.fingerprint(self.base_revision) if thorough and self.base.kind == "local" else None
        if state is None:
            return self.base.identify(self.base_revision, known, thorough)
        with _LOCK:
            if state not in _BASES:
                _BASES[state] = self.base.identify(self.base_revision, known, thorough)
                while len(_BASES) > _KEPT:
                    del _BASES[next(iter(_BASES))]
            return _BASES[state]

    def config(self, revision: str) -> dict:
        return self.adapters.config(revision)

    def fingerprint(self, revision: str) -> str | None:
        own, base = self.adapters.fingerprint(revision), self.base.fingerprint(self.base_revision)
        return None if own is None or base is None else hashlib.sha256(f"{own}\n{base}".encode()).hexdigest()

    def open(self, revision: str, identity: Identity | None = None) -> Checkpoint:
        adapter, base = (None, None) if identity is None else _parted(identity)
        return merged_checkpoint(self.adapters.open(revision, adapter), self.base.open(self.base_revision, base))

    def check_unchanged(self, identity: Identity) -> None:
        adapter, base = _parted(identity)
        self.adapters.check_unchanged(adapter)
        self.base.check_unchanged(base)

    def stamp_path(self, revision: str, file: FileIdentity) -> str:
        """No model's weights are in a file of an adapter's name."""
        if file.name in ADAPTER_NAMES:
            return self.adapters.stamp_path(revision, file)
        return self.base.stamp_path(self.base_revision, file)


def adapted_source(adapters: "Source", base: "Source", base_revision: str | None) -> AdaptedSource:
    """base_revision: None is main on a Hub, and in a folder the only one. Raises RequestError."""
    if base_revision is None and base.kind == "hub":
        base_revision = HUB_BRANCH
    if base_revision is None:
        revisions = base.revisions()
        if len(revisions) > 1:
            raise RequestError(
                f"the base {base.label} has {len(revisions)} revisions ({revisions[0]} ... {revisions[-1]}); "
                "say which with base_revision"
            )
        (base_revision,) = revisions
    return AdaptedSource(adapters, base, base_revision)


def _parted(identity: Identity) -> tuple[Identity, Identity]:
    """The adapter's and the base's. Raises ValueError where it has no base, which no identity of an `AdaptedSource` is without."""
    if identity.base is None:
        raise ValueError(f"{identity.revision}: an adapter's identity without that of its base")
    return replace(identity, base=None, merging=""), identity.base
