"""What an engine is, and how text becomes the tokens that an engine sees.

Every engine generates and scores in the records of `data.records`. The tokenisation below is shared by all engines
that hold a real model, so that a score means the same whichever engine computed it. Reads and writes no files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Generation, Prompt, Score, ScoreItem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_UNKNOWN_SHOWN = 12


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start an engine. Producer: the stages. Consumers: `start_engine`, `augment_service.worker`.

    `model` is a local folder of HF safetensors and a tokenizer. `max_model_len` is the window in tokens; None takes
    the model's own. `dtype` "auto" is float32 on CPU and bfloat16 on a GPU that has it. `kv_cache_gib` (GiB) holds on
    CPU; a GPU engine uses what memory the device has.
    """

    kind: Literal["vllm", "fake"]
    model: str
    max_model_len: int | None = None
    dtype: str = "auto"
    tensor_parallel: int = 1
    kv_cache_gib: float = 1.0
    seed: int = 0


class Engine(Protocol):
    """A model that answers: `augment_service.vllm_engine`, `augment_service.fake_engine`."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation]:
        """One text per prompt, in the prompts' order; a row depends on its prompt alone, not on its batch."""
        ...

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """Exact log-likelihoods (nats), one `Score` per item, in the items' order."""
        ...

    def load_weights(self, ref: CheckpointRef) -> None:
        """Replace the weights in place by those of a checkpoint of the same architecture."""
        ...

    def stats(self) -> dict[str, float]:
        """Counts since the start: tokens by kind, `seconds` of work, `parity_difference` (nats)."""
        ...


class ParityError(ResumableError):
    """The engine's log-probabilities differ from a plain forward pass of the same weights."""

    def __init__(self, path: str, difference: float, limit: float) -> None:
        super().__init__(path, difference, limit)
        self.path, self.difference, self.limit = path, difference, limit

    def __str__(self) -> str:
        return (
            f"the engine's log-probabilities differ by {self.difference:.2g} nats from a plain forward pass of "
            f"{self.path} (limit {self.limit:g}): its scores would be wrong, so nothing was scored"
        )


def start_engine(spec: EngineSpec) -> Engine:
    """The engine of that kind, ready to work. vLLM is imported only if it is asked for."""
    if spec.kind == "fake":
        from augment_service.fake_engine import FakeEngine

        return FakeEngine(spec)
    from augment_service.vllm_engine import VllmEngine

    return VllmEngine(spec)


def model_window(spec: EngineSpec) -> int:
    """The number of tokens that prompt and answer may have together; refuses a missing folder, a window too long."""
    config = Path(spec.model) / "config.json"
    if not config.is_file():
        raise InputError(
            f"no model here: there is no {config.name} in this folder",
            where=spec.model,
            mend="name a folder that holds config.json, safetensors and a tokenizer, --model",
        )
    longest = json.loads(config.read_text()).get("max_position_embeddings")
    window = spec.max_model_len or longest
    if not window or (longest and window > longest):
        raise InputError(
            f"a window of {window} tokens is wanted, the model has {longest}",
            where=str(config),
            mend=f"ask for a window of at most {longest} tokens" if longest else "name the window's length",
        )
    return int(window)


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One continuation to score: the tokens that are read, and the tokens whose log-probabilities count."""

    prefix: tuple[int, ...]
    continuation: tuple[int, ...]


def tokenise(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, where: str) -> list[list[int]]:
    """Token ids per text, with the tokenizer's beginning-of-text token (if it has one) and never an end token.

    Raises InputError, with the words, if the vocabulary is closed and some words are not in it.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    unknown_id = tokenizer.unk_token_id
    if unknown_id is not None:
        _refuse_unknown_words(tokenizer, [t for t, ids in zip(texts, rows, strict=True) if unknown_id in ids], where)
    start = tokenizer.bos_token_id
    if start is None or tokenizer("")["input_ids"][:1] != [start]:
        return rows
    return [[start, *ids] for ids in rows]


def _refuse_unknown_words(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], where: str) -> None:
    words: dict[str, None] = {}
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        words.update(dict.fromkeys(text[a:b] for token, (a, b) in spans if token == tokenizer.unk_token_id))
    if words:
        more = f" and {len(words) - NUM_UNKNOWN_SHOWN} more" if len(words) > NUM_UNKNOWN_SHOWN else ""
        raise InputError(
            f"the model does not know: {', '.join(list(words)[:NUM_UNKNOWN_SHOWN])}{more}",
            where=where,
            mend="use a model with an open vocabulary, --model",
        )


def seam(before: Sequence[int], joined: Sequence[int]) -> int:
    """The index in `joined` at which the continuation begins: the length of the longest common prefix."""
    pairs = zip(before, joined, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(before), len(joined)))


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt], window: int) -> list[list[int]]:
    """Token ids of `context + text` per prompt; refuses what does not leave room for `max_tokens` in the window."""
    rows = tokenise(tokenizer, [p.context + p.text for p in prompts], where="the prompts and their documents")
    for prompt, ids in zip(prompts, rows, strict=True):
        if not ids:
            raise InputError("the prompt is empty", where=f"prompt {prompt.prompt_id}", mend="give it a text")
        _check_window(f"prompt {prompt.prompt_id}", len(ids) + prompt.max_tokens, window)
    return rows


def score_tokens(
    tokenizer: "PreTrainedTokenizerBase", items: Sequence[ScoreItem], window: int
) -> list[tuple[TokenPair, ...]]:
    """The token pairs of every item, one per continuation.

    The scored text is the joined `context + prompt + " " + continuation`, tokenised as a whole. The continuation's
    tokens are those after the longest common prefix with the tokens of `context + prompt`. So if the joined text
    tokenises differently at the seam (a merge over the boundary), the tokens that changed count as part of the
    continuation, the last characters of the prompt included: the score is of tokens that the model would really see.
    """
    texts: list[str] = []
    for item in items:
        if not item.continuations or not all(c.strip() for c in item.continuations):
            raise InputError(
                "an empty continuation has no likelihood", where=f"item {item.item_id}", mend="give each option a text"
            )
        before = item.context + item.prompt
        texts += [before, *(f"{before} {continuation}" for continuation in item.continuations)]
    rows = iter(tokenise(tokenizer, texts, where="the questions and their documents"))
    return [_pairs_of(item, next(rows), [next(rows) for _ in item.continuations], window) for item in items]


def _pairs_of(
    item: ScoreItem, before: Sequence[int], joined: Sequence[Sequence[int]], window: int
) -> tuple[TokenPair, ...]:
    pairs = []
    for ids in joined:
        cut = seam(before, ids)
        if cut == 0 or cut == len(ids):
            raise InputError(
                "no token stands before the continuation" if cut == 0 else "the continuation adds no token",
                where=f"item {item.item_id}",
                mend="give the item a prompt and each option a text of its own",
            )
        _check_window(f"item {item.item_id}", len(ids), window)
        pairs.append(TokenPair(tuple(ids[:cut]), tuple(ids[cut:])))
    return tuple(pairs)


def _check_window(name: str, needed: int, window: int) -> None:
    if needed > window:
        raise InputError(
            f"{needed} tokens are needed, the model's window has {window}",
            where=name,
            mend="give it fewer documents in context, or use a model with a longer window, --model",
        )
