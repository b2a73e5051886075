"""Texts become token ids, by a base model's tokenizer.

Reads: the tokenizer and the configuration of a model folder. Writes: nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.errors import InputError
from data.seeds import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTS = ("cut", "skipped", "empty")
_NO_WINDOW = 1 << 30  # tokens; for configurations without one
_WORDS_LISTED = 20


@dataclass(frozen=True)
class TextEncoder:
    """A base model's tokenizer. Producer: `load_encoder`. Consumers: tokens, keys of runs.

    `fingerprint` covers everything that decides how the tokenizer encodes a text. `window` and `vocab_size` are the
    model's, in tokens.
    """

    tokenizer: "PreTrainedTokenizerBase"
    fingerprint: str
    window: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How long a training text may be, in tokens, and what becomes of longer ones."""

    window: int
    long: Literal["cut", "skip"] = "cut"


@dataclass
class EncodedRows:
    """Rows of tokens. Producers: `encode_rows`, `train.texts.conversations`. Consumer: `train.texts.tokens`.

    For each row the index of its first label, at least 1, and of its text or conversation. The counts are of training
    texts (of a conversation, each turn of the assistant is one): those that were cut, skipped for their length, and
    skipped because nothing can be learned from them.
    """

    rows: list[list[int]] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)
    cut: int = 0
    skipped: int = 0
    empty: int = 0

    def add(self, text: int, row: list[int], first: int) -> None:
        """Add a row of a text."""
        self.rows.append(row)
        self.firsts.append(first)
        self.texts.append(text)

    @classmethod
    def merged(cls, parts: "Sequence[tuple[Sequence[int], EncodedRows]]") -> "EncodedRows":
        """The rows of parts of a chunk in the chunk's order; each part with the places of its texts there."""
        found = cls(*([], [], []), *(sum(getattr(part, name) for _, part in parts) for name in COUNTS))
        rows = [
            (places[text], row, first)
            for places, part in parts
            for text, row, first in zip(part.texts, part.rows, part.firsts, strict=True)
        ]
        for text, row, first in sorted(rows, key=lambda entry: entry[0]):
            found.add(text, row, first)
        return found


@lru_cache(maxsize=2)
def load_encoder(base: str) -> TextEncoder:
    """The tokenizer of a model folder. Raises InputError if the folder holds no model or no tokenizer."""
    from augment_service.model_folder import load_config, load_tokenizer

    config, tokenizer = load_config(Path(base)).get_text_config(), load_tokenizer(Path(base))
    core = getattr(tokenizer, "backend_tokenizer", None)
    content = core.to_str() if core is not None else sorted(tokenizer.get_vocab().items())
    name = fingerprint(type(tokenizer).__name__, content, tokenizer.eos_token_id)
    return TextEncoder(tokenizer, name, getattr(config, "max_position_embeddings", _NO_WINDOW), config.vocab_size)


def encode_rows(
    texts: Sequence[str],
    prompts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    limits: TextLimits,
    *,
    where: str,
) -> EncodedRows:
    """Token ids of each prompt and text as one.

    Rows have the tokenizer's special tokens, and end in its eos token if it has one; those that a text contains are
    read as its characters. A token that spans the end of the prompt belongs to the text. A text that is longer than
    `limits.window` becomes several rows, or is skipped; with a prompt, it loses its end. Texts without a token to learn
    are skipped. Raises InputError for words outside a closed vocabulary, or with control tokens for words, and for
    prompts if the tokenizer gives no offsets.
    """
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    masked = any(prompts)
    if masked and not tokenizer.is_fast:
        raise InputError(
            "prompts cannot be separated from texts: this tokenizer gives no offsets",
            where=where,
            hint="name a model with a fast tokenizer (tokenizer.json), or leave the prompt column out",
        )
    options = {"return_attention_mask": False, "return_offsets_mapping": masked, "split_special_tokens": True}
    encoded = tokenizer(whole, **options, verbose=False)
    rows: list[list[int]] = encoded["input_ids"]
    _refuse_unknown(whole, rows, tokenizer, where)
    eos = tokenizer.eos_token_id
    if eos is not None:
        rows = [row if row[-1:] == [eos] else [*row, eos] for row in rows]
    firsts = [1] * len(rows)
    if masked:
        spans = encoded["offset_mapping"]
        firsts = [_first_label(of_row, len(prompt)) for of_row, prompt in zip(spans, prompts, strict=True)]
    found = EncodedRows()
    for index, (prompt, row, first) in enumerate(zip(prompts, rows, firsts, strict=True)):
        content = len(row) - (row[-1:] == [eos]) if prompt else len(row)
        if len(row) < 2 or first >= content:
            found.empty += 1
        elif len(row) <= limits.window:
            found.add(index, row, first)
        elif limits.long == "skip" or (prompt and first >= limits.window):
            found.skipped += 1
        else:
            found.cut += 1
            pieces = [row[: limits.window]] if prompt else _pieces(row, limits.window, tokenizer.bos_token_id)
            for piece in pieces:
                found.add(index, piece, first)
    return found


def _pieces(row: list[int], window: int, bos: int | None) -> list[list[int]]:
    """A row in parts of nearly equal length, each with the bos token of the row, if it has one."""
    start = row[:1] if row[0] == bos else []
    body, most = row[len(start) :], window - len(start)
    count = -(-len(body) // most)
    bounds = [len(body) * number // count for number in range(count + 1)]
    return [start + body[first:last] for first, last in pairwise(bounds)]


def _first_label(spans: Sequence[tuple[int, int]], prompt_characters: int) -> int:
    """The index of the first token that ends beyond the prompt, or of what is appended to all tokens."""
    beyond = (index for index, (_, end) in enumerate(spans) if end > prompt_characters)
    return max(1, next(beyond, len(spans)))


def _refuse_unknown(
    texts: Sequence[str], rows: Sequence[Sequence[int]], tokenizer: "PreTrainedTokenizerBase", where: str
) -> None:
    """Refuse texts with unknown tokens, and with bos or eos tokens other than those that the tokenizer adds."""
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    unknown = {tokenizer.unk_token_id} - control
    broken = [text for text, row in zip(texts, rows, strict=True) if unknown & {*row} or control & {*row[1:-1]}]
    if not broken:
        return
    found = dict.fromkeys(word for text in broken for word in re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text))
    words = [word for word in found if unknown & {*tokenizer(word, add_special_tokens=False)["input_ids"]}]
    words += [token for token in tokenizer.convert_ids_to_tokens([*control]) if any(token in text for text in broken)]
    listed = ", ".join(words[:_WORDS_LISTED]) + (" ..." if len(words) > _WORDS_LISTED else "")
    raise InputError(
        f"{len(words)} words are outside the model's closed vocabulary: {listed}",
        where=where,
        hint="use texts made for this model, or a model with an open vocabulary",
    )
