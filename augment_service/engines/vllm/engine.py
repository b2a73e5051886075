"""The `Engine` protocol over vLLM. Reads a folder of HF safetensors with its tokenizer; writes nothing.

Weights are used only if the engine reproduces their reference, see `augment_service.reference`.
"""

import logging
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from vllm import RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

from augment_service.engines.protocol import Answers, EngineSpec, OnAnswer, ParityError
from augment_service.engines.vllm.checkpoints import check_adapter, check_fit, read_shape
from augment_service.engines.vllm.llm import ON_CPU, EngineHost
from augment_service.engines.vllm.scoring import Evaluation, Values
from augment_service.engines.vllm.strategies import choose_strategy, distillation_request, read_distribution
from augment_service.engines.vllm.stream import Request, Tag
from augment_service.model_folder import check_model
from augment_service.reference import NUM_PREFIX, Difference, Reference, difference, find_reference, likely_causes
from augment_service.tokens import ItemTokens, TextReader, TokenPair, TokenRow, reading_order
from data import records
from data.errors import InputError
from data.seeds import vocabulary_fingerprint
from data.weights import is_adapter

logger = logging.getLogger(__name__)


class VllmEngine:
    """`TokenEngine` of `augment_service.engines.protocol` over vLLM; scores by `strategy`.

    One engine per process. Several threads may ask it at once, but not while weights are loaded. Raises InputError;
    ParityError, which is one, if the reference is not reproduced.
    """

    def __init__(self, spec: EngineSpec) -> None:
        check_model(spec, on_cpu=ON_CPU)  # the folder may be another one on this node
        folder = Path(spec.model)
        self.strategy = choose_strategy(spec.scoring)
        self.strategy.reads_long &= not spec.max_lora_rank
        shape, self._dtype = read_shape(folder), _choose_dtype(spec.dtype)
        self._spec, self._shape = spec, shape
        reference = find_reference(folder, self._dtype)  # before vLLM loads the weights, which takes the same memory
        options = self.strategy.engine_options()
        self._host = EngineHost(spec, shape, self._dtype, bool(self.strategy.v2_runner), options)
        self._host.start(spec.model)
        self.window = self._host.window
        self._tokenizer = self._host.tokenizer
        self._reader = TextReader(self._tokenizer, window=self.window, num_ids=shape.num_ids)
        self._counts = dict.fromkeys(("generated_tokens", "scored_tokens", "swaps", "cold_restarts"), 0)
        self._lock = threading.Lock()  # of the counts
        self._difference = Difference(0.0, 0.0)
        try:
            if not self._reproduces(reference):
                self._require(find_reference(folder, self._dtype, fresh=True), spec.model)
        except ParityError:
            self.close()
            raise

    def generate(
        self, prompts: Sequence[records.Prompt], on_answer: OnAnswer = None
    ) -> list[records.Generation | records.Refusal]:
        """As `Engine.generate`. Temperature 0 is greedy; else a row depends on its seed and prompt, not its batch.

        (Up to ties: batches of another size may round logits otherwise by 1e-6.) `stop` is not part of the text.
        """
        rows = self._reader.prompts(prompts)
        answers = Answers[records.Generation](rows, on_answer)
        # else as they come: the prompts of one document are answered together
        order = reading_order([(prompt.context, "") for prompt in prompts])
        requests = (
            Request(row, self._sampling(prompts[at]), at)
            for at in order
            if not isinstance(row := rows[at], records.Refusal)
        )
        for request, output in self._outputs(requests):
            answers.add(request.tag, self._generation(prompts[request.tag], output))
        return answers.rows

    def stream(self, prompt: records.Prompt) -> Iterator[str | records.Generation | records.Refusal]:
        """As `Engine.stream`."""
        (row,) = self._reader.prompts([prompt])
        if isinstance(row, records.Refusal):
            yield row
            return
        params = self._sampling(prompt)
        params.output_kind = RequestOutputKind.CUMULATIVE
        num_sent = 0
        for _, output in self._outputs(iter([Request(row, params, 0)])):
            text = output.outputs[0].text
            if text[num_sent:]:
                yield text[num_sent:]
                num_sent = len(text)
            if output.finished:
                yield self._generation(prompt, output)

    def score(
        self, items: Sequence[records.ScoreItem], on_answer: OnAnswer = None
    ) -> list[records.Score | records.Refusal]:
        """As `Engine.score`. Each context is computed once, and so are tokens that continuations share.

        No context is warmed beforehand: vLLM shares full blocks even between requests that begin in the same step.
        """
        rows = self._reader.items(items)
        answers = Answers[records.Score](rows, on_answer)
        order = reading_order([(item.context, item.prompt) for item in items])
        asked = [(at, row) for at in order if not isinstance(row := rows[at], records.Refusal)]
        evaluation = Evaluation(self.strategy, [[*row.pairs, *row.unconditional] for _, row in asked])
        self._count("scored_tokens", evaluation.num_tokens)
        for group, values in self._evaluate(evaluation):
            at, row = asked[group]
            answers.add(at, _assemble(items[at].item_id, row, values, self._difference.max))
        return answers.rows

    def echo(self, rows: Sequence[Sequence[int]]) -> list[records.Echo | records.Refusal]:
        """As `TokenEngine.echo`; each row is computed by itself, without the prefix cache."""
        if self._spec.max_lora_rank:
            hint = "start one with max_lora_rank 0"
            raise InputError("an engine for adapters has no logits of prompts", where="echo", hint=hint)
        checked = self._reader.ids(rows, num_more=1)
        answers = Answers[records.Echo](checked, None)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=1,
            logprobs=1,
            detokenize=False,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        requests = (
            Request(TokenRow((), tuple(row)), params, at)
            for at, row in enumerate(checked)
            if not isinstance(row, records.Refusal)
        )
        for request, output in self._outputs(requests):
            answers.add(request.tag, _echo_of(output))
            self._count("scored_tokens", len(request.prompt) - 1)
        return answers.rows

    def distill(
        self, examples: Sequence[records.DistillationExample], on_answer: OnAnswer = None
    ) -> list[records.Distribution | records.Refusal]:
        """As `TokenEngine.distill`. Each context is computed once if the strategy can follow a given text."""
        rows = self._reader.examples(examples)
        answers = Answers[records.Distribution](rows, on_answer)
        vocabulary = vocabulary_fingerprint(self._tokenizer.get_vocab())
        order = reading_order([(example.context, example.prompt) for example in examples])
        requests = (
            distillation_request(self.strategy, (at, row), examples[at].num_top)
            for at in order
            if not isinstance(row := rows[at], records.Refusal)
        )
        for request, output in self._outputs(requests):
            at, tokens = request.tag
            answers.add(at, read_distribution(examples[at], vocabulary, request, output))
            self._count("scored_tokens", len(tokens.path))
        return answers.rows

    def load_weights(self, ref: records.CheckpointRef) -> None:
        """As `Engine.load_weights`; on return the engine reproduces their reference, maybe after a cold restart.

        An adapter is applied over the engine's own model, without merging.
        """
        folder, weights, adapter = Path(ref.path), ref.path, None
        if is_adapter(folder):
            check_adapter(self._shape, folder, self._spec.max_lora_rank)
            weights, adapter = self._spec.model, folder
        else:
            check_fit(self._shape, folder)
        reference = find_reference(Path(weights), self._dtype, adapter)
        loaded = self._host.read_adapter(ref.name, ref.path) if adapter else None
        self._host.adapter = loaded
        if loaded is None or self._host.folder != weights:
            self._host.load(weights)
        self._counts["swaps"] += 1
        if self._reproduces(reference):
            return
        reference = find_reference(Path(weights), self._dtype, adapter, fresh=True)  # a stored one may be stale
        if not self._reproduces(reference):
            logger.warning("after the swap to %s the engine differs by %s: restarting it", ref.name, self._difference)
            self._counts["cold_restarts"] += 1
            self._host.start(weights)
            self._host.adapter = self._host.read_adapter(ref.name, ref.path) if adapter else None
            self._require(reference, ref.path)

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`."""
        return {
            **self._host.counts,
            **self._counts,
            "seconds": self._host.seconds,
            "parity_difference": self._difference.max,
        }

    def close(self) -> None:
        """Release the model's memory, so that another engine can start in this process."""
        self._host.close()

    def _sampling(self, prompt: records.Prompt) -> SamplingParams:
        # a stop that is one token ends the row by id: special tokens leave no text to compare with
        stop_id = self._tokenizer.get_vocab().get(prompt.stop) if prompt.stop else None
        options: dict[str, Any] = {"max_tokens": prompt.max_tokens, "temperature": 0.0}
        options["output_kind"] = RequestOutputKind.FINAL_ONLY
        if prompt.stop:
            options["stop"] = [prompt.stop]
        if stop_id is not None:
            options["stop_token_ids"] = [stop_id]
        if prompt.temperature > 0 and self.strategy.v2_runner:
            # this runner takes no logits processors; it has seeds of its own
            options |= {"temperature": prompt.temperature, "seed": prompt.seed}
        elif prompt.temperature > 0:
            options["extra_args"] = {"noise": (prompt.temperature, prompt.seed)}
        return SamplingParams(**options)

    def _generation(self, prompt: records.Prompt, output: RequestOutput) -> records.Generation:
        written = output.outputs[0]
        self._count("generated_tokens", len(written.token_ids))
        reason = written.finish_reason or "length"
        num_read = len(output.prompt_token_ids or ())
        return records.Generation(prompt.prompt_id, written.text, reason, len(written.token_ids), num_read)

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    def _outputs(
        self, requests: Iterator[Request[Tag]], more: deque[Request[Tag]] | None = None
    ) -> Generator[tuple[Request[Tag], RequestOutput]]:
        """The outputs of requests as they come; what is left of them is dropped if the caller stops."""
        with closing(self._host.run(requests, more)) as outputs:
            yield from outputs

    def _evaluate(self, evaluation: Evaluation) -> Iterator[tuple[int, list[Values]]]:
        """The values of the pairs of each group, as they are complete."""
        for request, output in self._outputs(evaluation.requests(), evaluation.more):
            for group in evaluation.read(request, output):
                yield group, evaluation.values(group)

    def _reproduces(self, reference: Reference) -> bool:
        """Whether the engine is as close to the reference as its type allows; sets `_difference`."""
        counted = dict(self._host.counts)
        num_prefix = min(NUM_PREFIX, self.window - 2)
        rows = [row[: self.window - 1] for row in reference.rows]
        pairs = [TokenPair(TokenRow((), row[:num_prefix]), row[num_prefix:]) for row in rows]
        # in two calls, so that the second one reads its prefixes from the cache, which is thereby compared, too
        values: list[list[float]] = [[] for _ in pairs]
        for start in (0, 1):
            evaluation = Evaluation(self.strategy, [[pair] for pair in pairs[start::2]])
            for group, (found,) in self._evaluate(evaluation):
                values[start + 2 * group] = [value for value, _ in found]
        self._host.counts = counted
        self._difference = difference(reference, values, num_prefix)
        return self._difference.within(reference.limit(self._dtype))

    def _require(self, reference: Reference, path: str) -> None:
        if not self._reproduces(reference):
            raise ParityError(
                f"the engine's log-probabilities differ from transformers in fp32 by {self._difference}; the limit is "
                f"{reference.limit(self._dtype)}",
                where=path,
                hint=likely_causes(Path(path)),
            )


def _assemble(item_id: str, row: ItemTokens, values: Sequence[Values], parity: float) -> records.Score:
    """`values` are those of the item's pairs, then of its unconditional ones."""
    scored, alone = values[: len(row.pairs)], values[len(row.pairs) :]
    return records.Score(
        item_id,
        log_likelihoods=tuple(sum(value for value, _ in tokens) for tokens in scored),
        num_tokens=tuple(map(len, scored)),
        greedy=tuple(all(best for _, best in tokens) for tokens in scored),
        token_log_likelihoods=tuple(value for tokens in scored for value, _ in tokens),
        unconditional=tuple(sum(value for value, _ in tokens) for tokens in alone),
        parity=parity,
    )


def _echo_of(output: RequestOutput) -> records.Echo:
    """From the log-probabilities of the prompt: at each position the token itself, then the likeliest one."""
    values, last = output.prompt_logprobs, output.outputs[0].logprobs
    starts = values.start_indices[1:]  # nothing precedes the first token
    return records.Echo(
        log_likelihoods=tuple(values.logprobs[at] for at in starts),
        best_tokens=(*(values.token_ids[at + 1] for at in starts), last.token_ids[1]),
        best_log_likelihoods=(*(values.logprobs[at + 1] for at in starts), last.logprobs[1]),
    )


def _choose_dtype(name: str) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if ON_CPU:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
