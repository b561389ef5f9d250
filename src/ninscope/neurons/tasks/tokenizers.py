"""Encode texts as token numbers, by the base's own tokenizer, a named tokenizer or as bytes; batches are padded on the right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ninscope.errors import CheckpointError, RequestError
from ninscope.neurons.tasks.base_models import quiet
from ninscope.neurons.tasks.files import TOKENIZER_FILES, has_vocabulary, one_line, rows_named
from ninscope.neurons.tasks.tables import Examples
from ninscope.neurons.tasks.task import Base

BYTES = "bytes"
PAIR_SEPARATOR = b"\n"  # between the two texts of a pair, as bytes
FILE_SEPARATOR = 0  # between files of text, as bytes
CHUNK = 1000  # texts a call of a tokenizer


class ByteTokenizer:
    """A token is the value of a byte of UTF-8, 0 to 255."""

    pad_token_id = 0
    eos_token_id = FILE_SEPARATOR

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def encode_examples(self, examples: Examples, max_length: int) -> dict[str, list[np.ndarray]]:
        if examples.seconds is None:
            return {"input_ids": [self.encode(text)[:max_length] for text in examples.texts]}
        pairs = zip(examples.texts, examples.seconds, strict=True)
        return {"input_ids": [self._pair(self.encode(text), self.encode(second), max_length) for text, second in pairs]}

    @staticmethod
    def _pair(text: np.ndarray, second: np.ndarray, max_length: int) -> np.ndarray:
        """Both texts, the longer one cut first, as the library's tokenizers do."""
        room = max_length - len(PAIR_SEPARATOR)
        half = room // 2
        first = max(room - len(second), room - half) if len(text) > len(second) else min(len(text), half)
        return np.concatenate([text[:first], np.frombuffer(PAIR_SEPARATOR, np.uint8), second[: room - first]])


class LibraryTokenizer:
    """A tokenizer of transformers, from a folder's tokenizer files."""

    def __init__(self, folder: Path, name: str) -> None:
        from transformers import AutoTokenizer

        if not has_vocabulary(folder):
            raise RequestError(
                f"{name} has no tokenizer files; give tokenizer = 'bytes', or the name or folder of one that has"
            )
        self.name = name
        try:
            with quiet():
                self.library = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # a library raises all kinds of errors at a stranger's file
            raise RequestError(
                f"{name}: its tokenizer cannot be read ({type(error).__name__}); give another one"
            ) from None
        self.library.padding_side = self.library.truncation_side = "right"
        self.pad_token_id, self.eos_token_id = self.library.pad_token_id, self.library.eos_token_id

    def encode(self, text: str) -> np.ndarray:
        with quiet():  # the library warns of texts that are too long for the model; these are cut into windows
            return np.array(self.library(text, add_special_tokens=False)["input_ids"], np.int32)

    def encode_examples(self, examples: Examples, max_length: int) -> dict[str, list[np.ndarray]]:
        columns: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(examples.texts), CHUNK):
            part = slice(start, start + CHUNK)
            texts = [examples.texts[part], *([] if examples.seconds is None else [examples.seconds[part]])]
            with quiet():
                encoded = self.library(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
            for name in encoded:
                columns.setdefault(name, []).extend(np.array(row, np.int32) for row in encoded[name])
        return columns


def open_tokenizer(name: str | None, base: Base) -> ByteTokenizer | LibraryTokenizer:
    """The tokenizer of this name: "bytes", a folder or a Hub repository (default: the base's own).

    Raises RequestError: there are no tokenizer files, or they cannot be read. Raises CheckpointError (missing): the Hub does not
    give them.
    """
    if name == BYTES:
        return ByteTokenizer()
    if name is not None:
        return LibraryTokenizer(_folder(name, None), f"tokenizer {name}")
    if base.folder is None:
        raise RequestError(f"{base.name} has no tokenizer files; give tokenizer = 'bytes', or the name of a tokenizer")
    return LibraryTokenizer(_folder(str(base.folder), base.revision), base.name)


def _folder(name: str, revision: str | None) -> Path:
    """A local folder, or the folder into which a Hub repository's tokenizer files, and nothing else of it, are fetched."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings | {"disable": True})

    files = [*TOKENIZER_FILES, "config.json"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, tqdm_class=Silent))
    except Exception as error:  # of the network, the name, the revision
        raise CheckpointError(
            "missing",
            f"tokenizer {name} is no folder, and the Hub does not give it ({one_line(error, 120)}); name another one",
            passing=True,
        ) from None


def stated_padding(base: Base, vocabulary: int) -> int | None:
    """The token that the base's configuration pads with; None where it names none, or a token that is not in its vocabulary."""
    stated = base.config.get("pad_token_id")
    return stated if isinstance(stated, int) and 0 <= stated < vocabulary else None


def padding_token(base: Base, tokenizer: ByteTokenizer | LibraryTokenizer, used: np.ndarray, vocabulary: int) -> int:
    """The number that fills rows up: the base's own, else the tokenizer's, else the first number that no text uses.

    used: numbers that occur in texts, sorted. Raises RequestError: the texts use the whole vocabulary.
    """
    if (stated := stated_padding(base, vocabulary)) is not None:
        return stated
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < vocabulary:
        return tokenizer.pad_token_id
    free = np.setdiff1d(np.arange(min(vocabulary, len(used) + 1)), used)
    if not len(free):
        raise RequestError(
            f"{base.name} has no token to pad with: texts use its whole vocabulary; name a tokenizer with one"
        )
    return int(free[0])


class EncodedTexts:
    """Texts as numbers, in batches.

    columns: rows of every input of the model, integers. pad: the number that fills rows up on the right. width: of every batch;
    None for the longest row of the batch. where: for messages. Classifiers of causal models read the last token that is not
    `pad`, wherever the attention mask ends, so no row may hold `pad`. Raises RequestError: a row holds it, or has no tokens.
    """

    def __init__(self, columns: Mapping[str, Sequence[np.ndarray]], pad: int, width: int | None, where: str) -> None:
        self.columns, self.pad, self.width = columns, pad, width
        rows = columns["input_ids"]
        if empty := [number for number, row in enumerate(rows, 1) if not len(row)]:
            raise RequestError(
                f"{where}: {rows_named(empty)}: the tokenizer makes nothing of the text; take the rows out"
            )
        if padded := [number for number, row in enumerate(rows, 1) if (row == pad).any()]:
            raise RequestError(
                f"{where}: {rows_named(padded)}: the text has the token that pads ({pad}); take it out of the text"
            )

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @property
    def longest(self) -> int:
        return self.width or max(len(row) for row in self.columns["input_ids"])

    def batch(self, numbers: np.ndarray) -> dict[str, torch.Tensor]:
        """Inputs and attention_mask (1 for text, 0 for padding), int64 [len(numbers), width]."""
        lengths = np.array([len(self.columns["input_ids"][number]) for number in numbers], np.int64)
        width = self.width or int(lengths.max())
        batch = {"attention_mask": torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))}
        for name, rows in self.columns.items():
            padded = np.full((len(numbers), width), self.pad if name == "input_ids" else 0, np.int64)
            for row, number in enumerate(numbers):
                padded[row, : lengths[row]] = rows[number]
            batch[name] = torch.from_numpy(padded)
        return batch


def used_tokens(*rows: Sequence[np.ndarray]) -> np.ndarray:
    """The distinct numbers in all rows, sorted."""
    parts = [
        np.unique(np.concatenate(part[start : start + CHUNK])) for part in rows for start in range(0, len(part), CHUNK)
    ]
    return np.unique(np.concatenate(parts))
