"""The served model's tokenizer: what a text costs, how it is tokenized, what token ids and conversations say.

Reads the tokenizer's files once. For one thread at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from augment_service.chat import render
from augment_service.model_folder import load_tokenizer
from augment_service.tokens import TextReader
from data.errors import InputError


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text in tokens: the ids that an engine reads, and for each its piece of the text and where it begins.

    The pieces of a text join to it, but for a start-of-text token; `offsets` are characters.
    """

    text: str
    ids: list[int]
    pieces: list[str]
    offsets: list[int]


class ModelTokenizer:
    """The tokenizer of the model at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        # Chat templates contain special tokens, and token ids are sent back and forth as text.
        self._reader = TextReader(self._tokenizer, split_special_tokens=False)
        self.longest_token = max(map(len, self._tokenizer.get_vocab()))  # characters

    def read(self, text: str) -> list[int]:
        """The ids that an engine reads. Raises InputError for words that a closed vocabulary does not have."""
        return self._reader.texts([text], where="prompt")[0]

    def tokenize(self, text: str) -> TokenizedText:
        """A text with the position of each token. White space belongs to the token after it."""
        ids = self.read(text)
        spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in spans["offset_mapping"]]
        if ends:
            ends[-1] = len(text)
        starts = [0, *ends[:-1]] if ends else []
        num_added = len(ids) - len(ends)  # the start-of-text token stands for no character of the text
        pieces = [self.piece(token) for token in ids[:num_added]]
        pieces += [text[start:end] for start, end in zip(starts, ends, strict=True)]
        return TokenizedText(text, ids, pieces, [0] * num_added + starts)

    def from_ids(self, ids: Sequence[int]) -> TokenizedText:
        """Token ids as they were sent; `offsets` add up the lengths of the pieces."""
        self._check(ids)
        pieces = [self.piece(token) for token in ids]
        offsets = [0, *accumulate(map(len, pieces))][:-1]
        return TokenizedText(self._decode(ids), list(ids), pieces, offsets)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text that an engine would tokenize to exactly these ids. Raises InputError if there is none."""
        self._check(ids)
        start = self.read("")
        found = self._decode(ids[len(start) :])
        if self.read(found) != list(ids):
            raise InputError(
                "the text of these token ids does not tokenize to the same ids, including the start token",
                where="prompt",
                hint="send the text",
            )
        return found

    def piece(self, token: int) -> str:
        """How a token is tokenized by itself."""
        return self._decode([token])

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """A conversation by the model's chat template, up to the answer. Raises InputError without a template."""
        return render(self._tokenizer, messages, where="/v1/chat/completions")

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _check(self, ids: Sequence[int]) -> None:
        size = len(self._tokenizer)
        if wrong := [token for token in ids if token >= size]:
            raise InputError(
                f"token id {wrong[0]} is out of range", where="prompt", hint=f"the vocabulary has {size} tokens"
            )
