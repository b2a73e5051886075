"""What an engine is: it generates and scores in the records of `data.records`. Writes no files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from data.errors import InputError, ResumableError
from data.records import CheckpointRef, Distribution, Echo, Generation, Lesson, Prompt, Refusal, Score, ScoreItem

EngineKind = Literal["vllm", "fake", "endpoint"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start an engine. Producer: the stages. Consumers: `start_engine`, `augment_service.worker`.

    `model` is a local folder of HF safetensors and a tokenizer. `max_model_len` is the window in tokens; None takes
    the model's own. `dtype` "auto" is float32 on CPU and bfloat16 on a GPU that has it. `kv_cache_gib` (GiB) holds on
    CPU; a GPU engine uses what memory the device has. `scoring` names a way of `augment_service.engines.vllm.ways`;
    "auto" leaves the choice to what vLLM can do. Adapters of a rank up to `max_lora_rank` can be loaded.

    An endpoint is named by its `url` (http://HOST:PORT/v1) and `model` by what it calls it; the environment variable
    `key_variable` holds its key; so many `connections` at a time.
    """

    kind: EngineKind
    model: str
    max_model_len: int | None = None
    dtype: str = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    kv_cache_gib: float = 1.0
    seed: int = 0
    url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    connections: int = 8
    scoring: str = "auto"
    max_lora_rank: int = 0


class Engine(Protocol):
    """A model that answers: `augment_service.engines.vllm`, `augment_service.engines.fake`."""

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation | Refusal]:
        """One text per prompt, in the prompts' order; a row depends on its prompt alone, not on its batch.

        What is wrong with a single row (too long, empty) is a `Refusal` in its place; the other rows are answered.
        """
        ...

    def score(self, items: Sequence[ScoreItem]) -> list[Score | Refusal]:
        """Exact log-likelihoods (nats), one `Score` per item, in the items' order; a `Refusal` as in `generate`."""
        ...

    def load_weights(self, ref: CheckpointRef) -> None:
        """Replace the weights in place by those of a checkpoint of the same architecture, or lay an adapter over them.

        InputError means that the engine was not touched; after any other error nobody knows what is loaded.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Counts since the start: tokens by kind, `seconds` of work, `parity_difference` (nats), `cold_restarts`.

        `prompt_tokens` were read, `cached_tokens` of them found in the prefix cache, `generated_tokens` written,
        `scored_tokens` judged; `computed_tokens` is how many positions the model was run on.
        """
        ...


@runtime_checkable
class EchoEngine(Engine, Protocol):
    """An engine that also says what its model thinks of every token of a text."""

    def echo(self, rows: Sequence[Sequence[int]]) -> list[Echo | Refusal]:
        """One `Echo` for each row of token ids, each with room for one token more; a `Refusal` bears a row's index."""
        ...


@runtime_checkable
class TeacherEngine(Engine, Protocol):
    """An engine that also says which tokens its model expects in a text."""

    def teach(self, lessons: Sequence[Lesson]) -> list[Distribution | Refusal]:
        """One `Distribution` for each lesson, in the lessons' order; a `Refusal` as in `generate`."""
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


def model_window(spec: EngineSpec) -> int:
    """The number of tokens that prompt and answer may have together; refuses a missing folder, a window too long."""
    config = Path(spec.model) / "config.json"
    if not config.is_file():
        raise InputError(
            f"no model here: there is no {config.name} in this folder",
            where=spec.model,
            hint="name a folder that holds config.json, safetensors and a tokenizer, --model",
        )
    settings = json.loads(config.read_text())
    settings |= settings.get("text_config", {})
    longest = settings.get("max_position_embeddings") or settings.get("n_positions")
    window = spec.max_model_len or longest
    if not window or (longest and window > longest):
        raise InputError(
            f"a window of {window} tokens is wanted, the model has {longest}",
            where=str(config),
            hint=f"ask for a window of at most {longest} tokens" if longest else "name the window's length",
        )
    return int(window)
