"""What an engine is: it generates and scores in the records of `data.records`. Writes no files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeVar, runtime_checkable

from data import records
from data.errors import InputError

EngineKind = Literal["vllm", "fake", "endpoint"]
EndpointApi = Literal["completions", "chat"]
CPU_CACHE_GIB = 0.5  # of an engine on the CPU, unless `kv_cache_gib` is given
GPU_MEMORY_SHARE = 0.9
OnAnswer = Callable[[int, Any], None] | None  # called with a row's index and answer as soon as it is there
Answer = TypeVar("Answer")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_USED_BY: dict[EngineKind, frozenset[str]] = {
    "vllm": frozenset(
        {"window", "dtype", "kv_cache_gib", "gpu_memory_share", "tensor_parallel", "pipeline_parallel"}
        | {"max_lora_rank", "scoring"}
    ),
    "fake": frozenset({"window"}),
    "endpoint": frozenset({"url", "endpoint_api", "key_variable", "connections"}),
}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start an engine. Producer: the stages. Consumers: `start_engine`, `augment_service.worker`.

    `model` is a local folder of HF safetensors and a tokenizer, or the name under which an endpoint serves its model.
    `window` (tokens) None takes what fits. `dtype` "auto" is float32 on a CPU and bfloat16 on a GPU that supports it.
    `kv_cache_gib` None is `CPU_CACHE_GIB` on a CPU, and on a GPU what `gpu_memory_share` of its memory leaves.
    `scoring` names a strategy of `augment_service.engines.vllm.strategies`; "auto" takes the first available one.
    Adapters of a rank up to `max_lora_rank` can be loaded.
    An endpoint has a `url` (http://HOST:PORT/v1), the environment variable that holds its key ("": no key is sent),
    and a number of concurrent `connections`; by `endpoint_api` it continues texts or answers chats. Raises InputError
    for values out of range, and for a setting that this kind of engine ignores.
    """

    kind: EngineKind
    model: str
    window: int | None = None
    dtype: str = "auto"
    kv_cache_gib: float | None = None
    gpu_memory_share: float = GPU_MEMORY_SHARE
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_lora_rank: int = 0
    scoring: str = "auto"
    seed: int = 0
    url: str = ""
    endpoint_api: EndpointApi = "completions"
    key_variable: str = ""
    connections: int = 8

    def __post_init__(self) -> None:
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default and field.name not in _USED_BY[self.kind] | {"seed"}:
                _refuse(field.name, f"an engine of kind {self.kind} ignores it, but it is {value!r}", "remove it")
        for name in ("window", "kv_cache_gib", "tensor_parallel", "pipeline_parallel", "connections"):
            if (value := getattr(self, name)) is not None and value <= 0:
                _refuse(name, f"{value} is too small", "give a value above 0")
        if self.max_lora_rank < 0:
            _refuse("max_lora_rank", f"{self.max_lora_rank} is negative", "give 0 or more")
        if not 0 < self.gpu_memory_share <= 1:
            _refuse("gpu_memory_share", f"{self.gpu_memory_share} is no share", "give a value above 0, at most 1")
        if self.dtype not in DTYPES:
            _refuse("dtype", f"{self.dtype!r} is not available", f"give one of {', '.join(DTYPES)}")
        if self.kind == "endpoint" and not self.url:
            _refuse("url", "an endpoint needs one", "give it, like http://127.0.0.1:8000/v1")


def check_scoring(endpoint_api: EndpointApi) -> None:
    """Raise InputError for an endpoint that cannot score."""
    if endpoint_api == "chat":
        hint = "score at an endpoint with /v1/completions, echo and logprobs, or with a vllm engine"
        _refuse("endpoint_api", "a chat tells no likelihood of a given text, so it cannot score", hint)


def _refuse(name: str, what: str, hint: str) -> NoReturn:
    raise InputError(what, where=f"engine setting {name}", hint=hint)


class Answers(Generic[Answer]):
    """The answers to some rows as they come, in any order; `rows` has them in the rows' order in the end.

    Rows that are refused beforehand are answered at once.
    """

    def __init__(self, read: Sequence[Any], on_answer: OnAnswer) -> None:
        """`read` are the rows as they are sent to the model, or their refusals."""
        self._on_answer = on_answer
        self.rows: list[Any] = [None] * len(read)
        for at, row in enumerate(read):
            if isinstance(row, records.Refusal):
                self.add(at, row)

    def add(self, at: int, answer: Answer | records.Refusal) -> None:
        """The answer to row `at`."""
        self.rows[at] = answer
        if self._on_answer is not None:
            self._on_answer(at, answer)


class Engine(Protocol):
    """A model that generates and scores: `augment_service.engines.vllm`, `.fake`, `.endpoint`.

    Any number of threads may ask it at once, but for `load_weights`. `on_answer` gets each row's index and answer as
    soon as it is there, in any order.
    """

    @property
    def window(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None if no bound is known here."""
        ...

    def generate(
        self, prompts: Sequence[records.Prompt], on_answer: OnAnswer = None
    ) -> list[records.Generation | records.Refusal]:
        """One text per prompt, in the prompts' order; a row depends on its prompt alone, not on its batch.

        What is wrong with a single row (too long, empty) is a `Refusal` in its place; the other rows are answered.
        """
        ...

    def stream(self, prompt: records.Prompt) -> Iterator[str | records.Generation | records.Refusal]:
        """The text of one prompt in parts, as they are written; then the `Generation` with all of it."""
        ...

    def score(
        self, items: Sequence[records.ScoreItem], on_answer: OnAnswer = None
    ) -> list[records.Score | records.Refusal]:
        """Exact log-likelihoods (nats), one `Score` per item, in the items' order; a `Refusal` as in `generate`."""
        ...

    def load_weights(self, ref: records.CheckpointRef) -> None:
        """Replace the weights in place by those of a checkpoint of the same architecture, or lay an adapter over them.

        Raises InputError for weights that do not fit, or that the engine does not reproduce. After an error it is
        undefined which weights are resident, and other weights can be loaded.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Counts since the start: tokens by kind, `seconds` of work, `cold_restarts`.

        `parity_difference` (nats) is how far the present weights are from fp32 at most, for a token of the reference.
        Of the `prompt_tokens`, `cached_tokens` came from the prefix cache; `computed_tokens` counts the positions on
        which the model ran.
        """
        ...


@runtime_checkable
class TokenEngine(Engine, Protocol):
    """An engine that also tells what its model expects at every position of a text."""

    def echo(self, rows: Sequence[Sequence[int]]) -> list[records.Echo | records.Refusal]:
        """One `Echo` per row of token ids, which must leave room for one more; a `Refusal` names the row's index."""
        ...

    def distill(
        self, examples: Sequence[records.DistillationExample], on_answer: OnAnswer = None
    ) -> list[records.Distribution | records.Refusal]:
        """One `Distribution` per example, in the examples' order; a `Refusal` as in `generate`."""
        ...


class ParityError(InputError):
    """The engine's log-probabilities are not those of a plain forward pass of the same weights."""
