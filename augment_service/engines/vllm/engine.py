"""The `Engine` protocol over vLLM. Reads a folder of HF safetensors with its tokenizer; writes nothing.

Weights are used only if the engine reproduces their reference, see `augment_service.reference`.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from vllm import RequestOutput, SamplingParams

from augment_service.engines.protocol import EngineSpec, ParityError
from augment_service.engines.vllm.checkpoints import check_adapter, check_fit, is_adapter, read_shape
from augment_service.engines.vllm.llm import ON_CPU, EngineHost, Request
from augment_service.engines.vllm.strategies import choose_strategy, distillation_request, read_distribution
from augment_service.engines.vllm.tries import Trie
from augment_service.model_folder import check_model
from augment_service.reference import NUM_PREFIX, Difference, Reference, difference, find_reference, likely_causes
from augment_service.tokens import ItemTokens, TextReader, TokenPair, TokenRow, reading_order
from data import records
from data.seeds import vocabulary_fingerprint

logger = logging.getLogger(__name__)
Values = dict[TokenPair, list[tuple[float, bool]]]  # per token: log-probability, whether it is the likeliest


class VllmEngine:
    """`TokenEngine` of `augment_service.engines.protocol` over vLLM; scores by `strategy`.

    One engine per process. Raises InputError; ParityError, which is one, if the reference is not reproduced.
    """

    def __init__(self, spec: EngineSpec) -> None:
        check_model(spec, on_cpu=ON_CPU)  # the folder may be another one on this node
        folder = Path(spec.model)
        self.strategy = choose_strategy(spec.scoring)
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
        self._difference = Difference(0.0, 0.0)
        try:
            if not self._reproduces(reference):
                self._require(find_reference(folder, self._dtype, fresh=True), spec.model)
        except ParityError:
            self.close()
            raise

    def generate(self, prompts: Sequence[records.Prompt]) -> list[records.Generation | records.Refusal]:
        """As `Engine.generate`. Temperature 0 is greedy; else a row depends on its seed and prompt, not its batch.

        (Up to ties: batches of another size may round logits otherwise by 1e-6.) `stop` is not part of the text.
        """
        rows = self._reader.prompts(prompts)
        answers: list[Any] = list(rows)
        order = reading_order([(prompt.context, prompt.text) for prompt in prompts])
        requests = (
            Request(row, self._sampling(prompts[at]), at)
            for at in order
            if not isinstance(row := rows[at], records.Refusal)
        )
        for request, output in self._host.run(requests):
            written, prompt = output.outputs[0], prompts[request.tag]
            self._counts["generated_tokens"] += len(written.token_ids)
            reason = written.finish_reason or "length"
            answers[request.tag] = records.Generation(prompt.prompt_id, written.text, reason, len(written.token_ids))
        return answers

    def score(self, items: Sequence[records.ScoreItem]) -> list[records.Score | records.Refusal]:
        """As `Engine.score`. Each context is computed once, and so are tokens that continuations share.

        No context is warmed beforehand: vLLM shares full blocks even between requests that begin in the same step.
        """
        rows = self._reader.items(items)
        order = reading_order([(item.context, item.prompt) for item in items])
        sound = [row for at in order if not isinstance(row := rows[at], records.Refusal)]
        values = self._evaluate(pair for row in sound for pair in (*row.pairs, *row.unconditional))
        self._counts["scored_tokens"] += sum(map(len, values.values()))
        return [
            row if isinstance(row, records.Refusal) else _assemble(item.item_id, row, values, self._difference.max)
            for item, row in zip(items, rows, strict=True)
        ]

    def echo(self, rows: Sequence[Sequence[int]]) -> list[records.Echo | records.Refusal]:
        """As `TokenEngine.echo`; each row is computed by itself, without the prefix cache."""
        checked = self._reader.ids(rows, num_more=1)
        answers: list[Any] = list(checked)
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=1, logprobs=1, detokenize=False, flat_logprobs=True
        )
        requests = (Request(row, params, at) for at, row in enumerate(checked) if not isinstance(row, records.Refusal))
        for request, output in self._host.run(requests):
            answers[request.tag] = _echo_of(output)
            self._counts["scored_tokens"] += len(request.prompt) - 1
        return answers

    def distill(self, examples: Sequence[records.DistillationExample]) -> list[records.Distribution | records.Refusal]:
        """As `TokenEngine.distill`. Each context is computed once if the strategy can follow a given text."""
        rows = self._reader.examples(examples)
        answers: list[Any] = list(rows)
        vocabulary = vocabulary_fingerprint(self._tokenizer.get_vocab())
        order = reading_order([(example.context, example.prompt) for example in examples])
        requests = (
            distillation_request(self.strategy, (at, row), examples[at].num_top)
            for at in order
            if not isinstance(row := rows[at], records.Refusal)
        )
        for request, output in self._host.run(requests):
            at, tokens = request.tag
            answers[at] = read_distribution(examples[at], vocabulary, request, output)
            self._counts["scored_tokens"] += len(tokens.path)
        return answers

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
        return {**self._host.counts, **self._counts, "parity_difference": self._difference.max}

    def close(self) -> None:
        """Release the model's memory, so that another engine can start in this process."""
        self._host.close()

    def _sampling(self, prompt: records.Prompt) -> SamplingParams:
        # a stop that is one token ends the row by id: special tokens leave no text to compare with
        stop_id = self._tokenizer.get_vocab().get(prompt.stop) if prompt.stop else None
        options: dict[str, Any] = {"max_tokens": prompt.max_tokens, "temperature": 0.0}
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

    def _evaluate(self, pairs: Iterable[TokenPair]) -> Values:
        """The values of every distinct pair; pairs with the same prefix share one trie."""
        tries: dict[TokenRow, Trie] = {}
        nodes: dict[TokenPair, list[int]] = {}
        for pair in pairs:
            trie = tries.setdefault(pair.prefix, Trie(pair.prefix))
            nodes[pair] = trie.add(pair.continuation)
        for request, output in self._host.run(chain.from_iterable(map(self.strategy.requests, tries.values()))):
            self.strategy.read(request, output)
        return {pair: [tries[pair.prefix].found[node] for node in path] for pair, path in nodes.items()}

    def _reproduces(self, reference: Reference) -> bool:
        """Whether the engine is as close to the reference as its type allows; sets `_difference`."""
        counted = dict(self._host.counts)
        num_prefix = min(NUM_PREFIX, self.window - 2)
        rows = [row[: self.window - 1] for row in reference.rows]
        pairs = [TokenPair(TokenRow((), row[:num_prefix]), row[num_prefix:]) for row in rows]
        # in two calls, so that the second one reads its prefixes from the cache, which is thereby compared, too
        found = self._evaluate(pairs[::2]) | self._evaluate(pairs[1::2])
        self._host.counts = counted
        values = [[value for value, _ in found[pair]] for pair in pairs]
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


def _assemble(item_id: str, row: ItemTokens, values: Values, parity: float) -> records.Score:
    scored = [values[pair] for pair in row.pairs]
    alone = [values[pair] for pair in row.unconditional]
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
