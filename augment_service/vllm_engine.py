"""The vLLM engine, in the caller's own process: the only file that imports vllm.

Reads a folder of HF safetensors with its tokenizer. Scoring is forced decoding: the continuation is "generated" while
a logits processor leaves only its next token finite, and the raw log-probability of each token is taken before that.
So one shared context is computed once (prefix cache) and every request costs little more than its own tokens.
Sampling is greedy decoding over logits with Gumbel noise that the prompt's seed decides. Every set of weights must
pass a parity probe against a plain transformers forward pass before it is used.
"""

import os

# Read by vLLM at import. One process per engine; no thread binding, or all engines of a node share one core; the
# second model runner has another interface for logits processors.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_USE_V2_MODEL_RUNNER="0",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch

ON_CPU = not torch.cuda.is_available()
if ON_CPU:
    # an eager engine still compiles one line of its sampler: 8 to 27 s of a start-up that takes 4 s without
    os.environ["TORCHDYNAMO_DISABLE"] = "1"

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar
from vllm import LLM, RequestOutput, SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from augment_service.engine import EngineSpec, ParityError, TokenPair, model_window, prompt_tokens, score_tokens
from data.errors import InputError
from data.records import CheckpointRef, Generation, Prompt, Score, ScoreItem
from data.seeds import derive_seed

CPU_BLOCK_SIZE = 32  # tokens; the smallest that the CPU kernels take, so that the cache shares the most
NOISE_ROWS = 32  # rows of noise made at once: bounds the memory at vocabularies of 128k
PARITY_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # nats per token
PROBE_PREFIX, PROBE_CONTINUATION = 48, 6  # tokens; the prefix is longer than a block, to probe the cache as well


def _int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# splitmix64's constants, as the signed integers that torch knows
_STEP, _MIX_A, _MIX_B = _int64(0x9E3779B97F4A7C15), _int64(0xBF58476D1CE4E5B9), _int64(0x94D049BB133111EB)


def gumbel_noise(keys: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Standard Gumbel noise of shape (len(keys), num_columns), float64, decided by the int64 keys alone.

    A counter-based hash (splitmix64 of key and column) in place of a generator: no state, one pass for all rows.
    """
    columns = torch.arange(1, num_columns + 1, device=keys.device, dtype=torch.int64)
    bits = keys[:, None] + columns * _STEP
    for shift, factor in ((30, _MIX_A), (27, _MIX_B)):
        bits = (bits ^ _shift_right(bits, shift)) * factor
    bits = bits ^ _shift_right(bits, 31)
    uniform = (_shift_right(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log1p(-uniform))


def _shift_right(bits: torch.Tensor, by: int) -> torch.Tensor:
    # torch's shift of int64 keeps the sign; the mask makes it the logical shift that the hash needs
    return (bits >> by) & ((1 << (64 - by)) - 1)


class RowProcessor(AdapterLogitsProcessor):  # type: ignore[misc]
    """Per request, by `extra_args`: force the next token ("forced"), or add seeded noise ("noise": temperature, seed).

    Only the number of tokens written so far is read, never their values: with asynchronous scheduling the values of
    the last step are not known yet.
    """

    def is_argmax_invariant(self) -> bool:
        """No: a forced or noisy row picks another token than the bare logits would."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> Callable[[list[int]], tuple[object, ...]] | None:
        """Binds what the request asks for; `apply` calls it with the tokens written so far already bound."""
        extra = params.extra_args or {}
        if "forced" in extra:
            forced: list[int] = extra["forced"]
            return partial(_next_forced, forced)
        if "noise" in extra:
            temperature, seed = extra["noise"]
            return partial(_next_noise, temperature, seed)
        return None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Changes `logits` (requests x vocabulary) in place, all noisy rows of a step together."""
        noisy: list[tuple[int, float, int]] = []
        for row, request in self.req_info.items():
            kind, *values = request()
            if kind == "forced":
                logits[row] = float("-inf")
                logits[row, values[0]] = 0.0
            else:
                noisy.append((row, *values))
        for start in range(0, len(noisy), NOISE_ROWS):
            rows, temperatures, keys = zip(*noisy[start : start + NOISE_ROWS], strict=True)
            noise = gumbel_noise(torch.tensor(keys, device=logits.device), logits.shape[1])
            scale = torch.tensor(temperatures, device=logits.device, dtype=torch.float64)[:, None]
            index = torch.tensor(rows, device=logits.device)
            logits[index] = (logits[index].double() / scale + noise).to(logits.dtype)
        return logits


def _next_forced(forced: list[int], written: list[int]) -> tuple[str, int]:
    # a step scheduled ahead of a request that is about to end asks for one token too many
    return "forced", forced[min(len(written), len(forced) - 1)]


def _next_noise(temperature: float, seed: int, written: list[int]) -> tuple[str, float, int]:
    return "noise", temperature, derive_seed(seed, "token", len(written))


class VllmEngine:
    """`augment_service.engine.Engine` over vLLM. Raises InputError, and ParityError if the probe fails."""

    def __init__(self, spec: EngineSpec) -> None:
        self._window = model_window(spec)
        self._dtype = _choose_dtype(spec.dtype)
        self._stats = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "generated_tokens", "scored_tokens", "seconds", "parity_difference"), 0.0
        )
        disable_progress_bar()
        device_options = {"block_size": CPU_BLOCK_SIZE, "kv_cache_memory_bytes": int(spec.kv_cache_gib * 2**30)}
        self._llm = LLM(
            model=spec.model,
            dtype=str(self._dtype).removeprefix("torch."),
            max_model_len=self._window,
            seed=spec.seed,
            tensor_parallel_size=spec.tensor_parallel,
            enforce_eager=ON_CPU,
            enable_prefix_caching=True,
            logprobs_mode="raw_logprobs",
            logits_processors=[RowProcessor],
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **(device_options if ON_CPU else {}),
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._probe(Path(spec.model))

    def generate(self, prompts: Sequence[Prompt]) -> list[Generation]:
        """As `Engine.generate`. Temperature 0 is greedy; else a row depends on its seed and prompt, not its batch.

        (Up to ties: batches of another size may round logits otherwise by 1e-6.) `stop` is not part of the text.
        """
        tokens = prompt_tokens(self._tokenizer, prompts, self._window)
        params = [self._sampling(prompt) for prompt in prompts]
        rows = []
        for prompt, output in zip(prompts, self._run(tokens, params), strict=True):
            written = output.outputs[0]
            self._stats["generated_tokens"] += len(written.token_ids)
            reason = written.finish_reason or "length"
            rows.append(Generation(prompt.prompt_id, written.text, reason, len(written.token_ids)))
        return rows

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        """As `Engine.score`. Continuations of a shared context are computed next to each other, the context once."""
        per_item = score_tokens(self._tokenizer, items, self._window)
        judged = iter(self._force([pair for pairs in per_item for pair in pairs]))
        rows = []
        for item, pairs in zip(items, per_item, strict=True):
            results = [next(judged) for _ in pairs]
            rows.append(
                Score(
                    item.item_id,
                    log_likelihoods=tuple(sum(values) for values, _ in results),
                    num_tokens=tuple(len(pair.continuation) for pair in pairs),
                    greedy=tuple(greedy for _, greedy in results),
                )
            )
        return rows

    def load_weights(self, ref: CheckpointRef) -> None:
        """As `Engine.load_weights`; on return the new weights have passed the probe."""
        folder = Path(ref.path)
        if not any(folder.glob("*.safetensors")):
            raise InputError(
                f"checkpoint {ref.name} has no safetensors",
                where=ref.path,
                mend="name a folder that `train` has written",
            )
        started = time.perf_counter()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": ref.path})
        self._llm.apply_model(_rebuild_tied_head)
        self._llm.reset_prefix_cache()
        self._stats["seconds"] += time.perf_counter() - started
        self._probe(folder)

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`; `parity_difference` is the largest that any probe measured."""
        return dict(self._stats)

    def _sampling(self, prompt: Prompt) -> SamplingParams:
        # a stop that is a token of its own ends the row by id: no text is left of it, special token or not
        stop_id = self._tokenizer.get_vocab().get(prompt.stop) if prompt.stop else None
        noisy = prompt.temperature > 0
        return SamplingParams(
            max_tokens=prompt.max_tokens,
            temperature=0.0,
            stop=[prompt.stop] if prompt.stop else None,
            stop_token_ids=None if stop_id is None else [stop_id],
            extra_args={"noise": (prompt.temperature, prompt.seed)} if noisy else None,
        )

    def _force(self, pairs: Sequence[TokenPair]) -> list[tuple[list[float], bool]]:
        """Per pair, in order: the log-probability of each continuation token, and whether all were the most likely."""
        order = sorted(range(len(pairs)), key=lambda at: pairs[at].prefix)
        params = [_forcing(pairs[at].continuation) for at in order]
        outputs = self._run([list(pairs[at].prefix) for at in order], params)
        judged: dict[int, tuple[list[float], bool]] = {}
        for at, output in zip(order, outputs, strict=True):
            steps = zip(output.outputs[0].logprobs, pairs[at].continuation, strict=True)
            found = [step[token] for step, token in steps]
            judged[at] = ([entry.logprob for entry in found], all(entry.rank == 1 for entry in found))
            self._stats["scored_tokens"] += len(found)
        return [judged[at] for at in range(len(pairs))]

    def _run(self, tokens: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[RequestOutput]:
        started = time.perf_counter()
        prompts = [{"prompt_token_ids": list(ids)} for ids in tokens]
        outputs: list[RequestOutput] = self._llm.generate(prompts, list(params), use_tqdm=False) if prompts else []
        self._stats["seconds"] += time.perf_counter() - started
        self._stats["prompt_tokens"] += sum(map(len, tokens))
        self._stats["cached_tokens"] += sum(output.num_cached_tokens or 0 for output in outputs)
        return outputs

    def _probe(self, folder: Path) -> None:
        """Raise ParityError unless this engine scores a fixed token sequence as transformers does.

        The second pair shares its prefix with the first, so that the prefix cache is probed as well.
        """
        draw = random.Random(0)
        num_ids = min(len(self._tokenizer), self._llm.model_config.get_vocab_size())
        length = min(PROBE_PREFIX, self._window - PROBE_CONTINUATION)
        prefix = tuple(draw.randrange(num_ids) for _ in range(length))
        pairs = [TokenPair(prefix, tuple(draw.choices(range(num_ids), k=PROBE_CONTINUATION))) for _ in range(2)]
        wanted = _plain_log_probabilities(folder, pairs, self._dtype)
        found = [self._force([pair])[0][0] for pair in pairs]
        difference = (torch.tensor(found) - wanted).abs().max().item()
        self._stats["parity_difference"] = max(self._stats["parity_difference"], difference)
        limit = PARITY_LIMIT[self._dtype]
        if not difference <= limit:  # a NaN is no parity either
            raise ParityError(str(folder), difference, limit)


def _forcing(continuation: Sequence[int]) -> SamplingParams:
    return SamplingParams(
        max_tokens=len(continuation),
        min_tokens=len(continuation),
        ignore_eos=True,
        temperature=0.0,
        logprobs=0,
        detokenize=False,
        extra_args={"forced": list(continuation)},
    )


def _choose_dtype(name: str) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if ON_CPU:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _rebuild_tied_head(model: torch.nn.Module) -> None:
    # the packed copy of a tied output layer is not remade by a reload: without this the scores are silently wrong
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head"):
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


def _plain_log_probabilities(folder: Path, pairs: Sequence[TokenPair], dtype: torch.dtype) -> torch.Tensor:
    """Log-probabilities of the continuations, shape (pairs, continuation tokens), by transformers on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).eval()
    ids = torch.tensor([[*pair.prefix, *pair.continuation] for pair in pairs])
    length = len(pairs[0].continuation)
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[:, -length - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, -length:, None])[..., 0]
