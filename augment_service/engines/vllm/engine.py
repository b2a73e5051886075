"""The `Engine` protocol over vLLM. Reads a folder of HF safetensors with its tokenizer; writes nothing.

Weights must pass a parity probe against a plain transformers forward pass before they are used.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from vllm import RequestOutput, SamplingParams

from augment_service.engines.protocol import EngineSpec, ParityError
from augment_service.engines.vllm.checkpoints import check_adapter, check_fit, is_adapter, read_shape
from augment_service.engines.vllm.llm import ON_CPU, EngineHost, Request
from augment_service.engines.vllm.probe import PARITY_LIMIT, plain_log_probabilities, probe_pairs
from augment_service.engines.vllm.strategies import choose_strategy, distillation_request, read_distribution
from augment_service.engines.vllm.tries import Trie
from augment_service.engines.window import fit_window
from augment_service.tokens import ItemTokens, TextReader, TokenPair, TokenRow, reading_order
from data import records
from data.seeds import vocabulary_fingerprint

logger = logging.getLogger(__name__)
Values = Mapping[TokenPair, list[tuple[float, bool]]]  # per token: log-probability, whether it is the likeliest


class VllmEngine:
    """`TokenEngine` of `augment_service.engines.protocol` over vLLM; scores by `strategy`.

    One engine per process. Raises InputError, and ParityError if the probe fails.
    """

    def __init__(self, spec: EngineSpec) -> None:
        fit_window(spec, on_cpu=ON_CPU)  # refuses a wrong window before anything is loaded
        folder = Path(spec.model)
        self.strategy = choose_strategy(spec.scoring)
        shape, self._dtype = read_shape(folder), _choose_dtype(spec.dtype)
        self._spec, self._shape = spec, shape
        options = self.strategy.engine_options()
        self._host = EngineHost(spec, shape, self._dtype, bool(self.strategy.v2_runner), options)
        self._host.start(spec.model)
        self.window = self._host.window
        self._tokenizer = self._host.tokenizer
        self._reader = TextReader(self._tokenizer, window=self.window, num_ids=shape.num_ids)
        self._probed = probe_pairs(min(len(self._tokenizer), shape.num_ids), self.window)
        self._counts = dict.fromkeys(("generated_tokens", "scored_tokens", "swaps", "cold_restarts"), 0)
        self._parity = 0.0
        wanted = plain_log_probabilities(folder, self._probed, self._dtype)
        try:
            self._accept(spec.model, self._difference(wanted))
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
            row if isinstance(row, records.Refusal) else _assemble(item.item_id, row, values)
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
        """As `Engine.load_weights`; on return the new weights have passed the parity probe, maybe after a cold restart.

        An adapter is applied over the engine's own model, without merging.
        """
        folder, weights, adapter = Path(ref.path), ref.path, None
        if is_adapter(folder):
            check_adapter(self._shape, folder, self._spec.max_lora_rank)
            weights, adapter = self._spec.model, folder
        else:
            check_fit(self._shape, folder)
        wanted = plain_log_probabilities(Path(weights), self._probed, self._dtype, adapter)
        loaded = self._host.read_adapter(ref.name, ref.path) if adapter else None
        self._host.adapter = loaded
        if loaded is None or self._host.folder != weights:
            self._host.load(weights)
        self._counts["swaps"] += 1
        difference = self._difference(wanted)
        if not difference <= PARITY_LIMIT[self._dtype]:
            logger.warning(
                "after the swap to %s the engine differs by %.2g nats from a plain forward pass: restarting it",
                ref.name,
                difference,
            )
            self._counts["cold_restarts"] += 1
            self._host.start(weights)
            self._host.adapter = self._host.read_adapter(ref.name, ref.path) if adapter else None
            difference = self._difference(wanted)
        self._accept(ref.path, difference)

    def stats(self) -> dict[str, float]:
        """As `Engine.stats`; `parity_difference` is the largest of all weights that passed."""
        return {**self._host.counts, **self._counts, "parity_difference": self._parity}

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

    def _difference(self, wanted: torch.Tensor) -> float:
        """The largest difference of a log-probability (nats) between this engine and a plain forward pass."""
        counted = dict(self._host.counts)
        # one call each, so that the second one reads its prefix from the cache, which is thereby probed too
        found = [[value for value, _ in self._evaluate([pair])[pair]] for pair in self._probed]
        self._host.counts = counted
        return (torch.tensor(found) - wanted).abs().max().item()

    def _accept(self, path: str, difference: float) -> None:
        limit = PARITY_LIMIT[self._dtype]
        if not difference <= limit:  # a NaN is no parity either
            raise ParityError(
                f"the engine's log-probabilities differ by {difference:.2g} nats from a plain forward pass of {path} "
                f"(limit {limit:g}), so nothing was scored with it"
            )
        self._parity = max(self._parity, difference)


def _assemble(item_id: str, row: ItemTokens, values: Values) -> records.Score:
    scored = [values[pair] for pair in row.pairs]
    alone = [values[pair] for pair in row.unconditional]
    return records.Score(
        item_id,
        log_likelihoods=tuple(sum(value for value, _ in tokens) for tokens in scored),
        num_tokens=tuple(map(len, scored)),
        greedy=tuple(all(best for _, best in tokens) for tokens in scored),
        token_log_likelihoods=tuple(value for tokens in scored for value, _ in tokens),
        unconditional=tuple(sum(value for value, _ in tokens) for tokens in alone),
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
