"""Texts become token ids, by a base model's tokenizer.

Reads: the tokenizer and the configuration of a model folder. Writes: nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InputError
from data.seeds import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    *,
    window: int,
    where: str,
) -> tuple[list[list[int]], list[int]]:
    """Token ids of each prompt and text as one, and the index of each row's first label, at least 1.

    Rows have the tokenizer's special tokens, and end in its eos token if it has one; those that a text contains are
    read as its characters. A token that spans the end of the prompt belongs to the text. Raises InputError for words
    outside a closed vocabulary, or with control tokens for words, for texts longer than the model's `window` or too
    short to predict anything, and for prompts if the tokenizer gives no offsets.
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
    encoded = tokenizer(whole, **options)
    rows: list[list[int]] = encoded["input_ids"]
    _refuse_unknown(whole, rows, tokenizer, where)
    eos = tokenizer.eos_token_id
    if eos is not None:
        rows = [row if row[-1:] == [eos] else [*row, eos] for row in rows]
    firsts = [1] * len(rows)
    if masked:
        spans = encoded["offset_mapping"]
        firsts = [_first_label(of_row, len(prompt)) for of_row, prompt in zip(spans, prompts, strict=True)]
    for text, prompt, row, first in zip(whole, prompts, rows, firsts, strict=True):
        if not 2 <= len(row) <= window:
            raise InputError(
                f"a text of {len(row)} tokens cannot be trained on (2 to {window} can be): {text[:60]!r}",
                where=where,
                hint="import the documents with --chunk-tokens, drop empty texts, or use a model with a longer window",
            )
        if prompt and first >= len(row) - (row[-1] == eos):
            raise InputError(
                f"nothing is left to learn after the prompt: {text[:60]!r}", where=where, hint="drop empty texts"
            )
    return rows, firsts


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
