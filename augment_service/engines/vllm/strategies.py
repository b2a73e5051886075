"""Strategies that get exact log-probabilities of continuations from vLLM, chosen by what the installed vLLM offers.

A strategy turns the branches of a trie into requests and reads their outputs. Log-probabilities are raw: taken before
a token is forced. A long continuation is read in one pass rather than written token by token. The same strategies find
the likeliest tokens at every position of a given text after a context, which those that make an engine write given
tokens compute once. Touches no files.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from vllm import RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.triton_utils import HAS_TRITON

from augment_service.engines.vllm.sampling import RowProcessor
from augment_service.engines.vllm.stream import Request
from augment_service.engines.vllm.tries import Branch, Trie
from augment_service.tokens import ExampleTokens
from data.errors import InputError, ResumableError
from data.records import DistillationExample, Distribution

AUTO = "auto"
LONG_PATH = 16  # tokens; a longer continuation is read in one pass where the strategy allows it
Example = tuple[int, ExampleTokens]  # with the index of the example
_ZERO = -1e4  # nats; the probability is 0 in float32, and a product with it is no NaN


@dataclass(frozen=True, slots=True)
class Query:
    """What a request finds: the values of a branch, which it writes or reads.

    Or it only fills the prefix cache, and `then` come the requests that need it filled.
    """

    trie: Trie
    branch: Branch
    kind: Literal["write", "read", "fill"] = "write"
    then: tuple["Request[Query]", ...] = ()


class Strategy(ABC):
    """How to score. `v2_runner` says which of vLLM's model runners it needs (None: either).

    `reads_long` says whether long continuations are read in one pass, after a prefix from the cache. An engine for
    adapters cannot: vLLM has no logits of prompts there.
    """

    name: ClassVar[str]
    v2_runner: ClassVar[bool | None] = None
    reads_long: bool = False
    needs: ClassVar[tuple[str, ...]]  # fields of SamplingParams

    def obstacle(self) -> str:
        """Why this strategy is not available here; "" if it is."""
        missing = [name for name in self.needs if name not in SamplingParams.__struct_fields__]
        return f"this vLLM's SamplingParams has no {', '.join(missing)}" if missing else ""

    def engine_options(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM` that this strategy needs."""
        return {"logits_processors": [RowProcessor]}

    def follow(self, path: list[int]) -> dict[str, Any] | None:
        """Options of `SamplingParams` that make an engine write these tokens; None if this strategy cannot."""
        return None

    def branches(self, trie: Trie) -> Iterator[Branch]:
        """The branches that cover a trie, one per request: to each node with leaves, and all its leaves."""
        return trie.branches(leaves_only=True)

    @abstractmethod
    def request(self, trie: Trie, branch: Branch) -> Request[Query]:
        """The request that finds the values of a branch."""

    def requests(self, trie: Trie) -> Iterator[Request[Query]]:
        """The requests that find all values of a trie, with those that follow from reading their outputs.

        Long branches come after a request that fills the cache with their prefix: else the first would compute the
        logits of all of it.
        """
        long = []
        for branch in self.branches(trie):
            if self.reads_long and len(branch.nodes) > LONG_PATH:
                long.append(_reading(trie, branch, skip_reading_prefix_cache=False))
            else:
                yield self.request(trie, branch)
        if long:
            yield Request(trie.prefix, exact_params(max_tokens=1), Query(trie, Branch((), ()), "fill", tuple(long)))

    def read(self, request: Request[Query], output: RequestOutput) -> Sequence[Request[Query]]:
        """Store the output's values in `trie.found`; returns the requests that are needed now.

        The values are those of tokens that were written or read, then of the branch's children. If the cache had
        tokens of a long continuation already, their log-probabilities were not computed: then they are written.
        """
        query, num_prefix = request.tag, len(request.tag.trie.prefix)
        trie, branch = query.trie, query.branch
        if query.kind == "fill":
            return query.then
        if query.kind == "read":
            # what another branch shares with this one may be found already, and then be in the cache
            first = next((at for at, node in enumerate(branch.nodes) if node not in trie.found), len(branch.nodes))
            if self.reads_long and _num_cached(output) >= num_prefix + first:
                return [self.request(trie, branch)]
            check_cache(output, num_prefix + first)
            values = output.prompt_logprobs
            for at, node in enumerate(branch.nodes[first:], start=num_prefix + first):
                _read_node(trie, node, values, values.start_indices[at])
        check_cache(output, len(request.prompt))
        written: Any = output.outputs[0].logprobs
        nodes = branch.nodes if request.prompt is trie.prefix else ()  # else they were read as a part of the prompt
        for step, node in enumerate(nodes):
            _read_node(trie, node, written, written.start_indices[step])
        if branch.children:
            start = written.start_indices[len(nodes)]
            best = written.token_ids[start]
            for at, child in enumerate(branch.children, start=start + 1):
                _check_token(trie.tokens[child], written.token_ids[at])
                trie.found[child] = written.logprobs[at], best == trie.tokens[child]
        return ()


class Forced(Strategy):
    """The prefix is read once per leaf branch; a logits processor forces the path, and the last choice is free.

    The free choice is the likeliest token, so one request scores all leaves of a node, greediness included.
    """

    name = "forced"
    v2_runner = False
    reads_long = True
    needs = ("extra_args", "logprob_token_ids", "flat_logprobs", "prompt_logprobs", "skip_reading_prefix_cache")

    def follow(self, path: list[int]) -> dict[str, Any]:
        """As `Strategy.follow`."""
        return {"extra_args": {"forced": path} if path else None}

    def request(self, trie: Trie, branch: Branch) -> Request[Query]:
        """As `Strategy.request`."""
        path, asked = trie.spell(branch.nodes), trie.spell(branch.children)
        params = exact_params(max_tokens=len(path) + 1, logprob_token_ids=asked, **self.follow(path))
        return Request(trie.prefix, params, Query(trie, branch))


class Replay(Strategy):
    """vLLM's second model runner replays the tokens of a continuation and returns the log-probability of each."""

    name = "replay"
    v2_runner = True
    needs = ("trace_decode_token_ids", "flat_logprobs")

    def obstacle(self) -> str:
        """As `Strategy.obstacle`."""
        if not torch.cuda.is_available() or not HAS_TRITON:
            return "vLLM's second model runner needs CUDA and Triton"
        return super().obstacle()

    def engine_options(self) -> dict[str, Any]:
        """As `Strategy.engine_options`; this runner takes no logits processors."""
        return {"enable_trace_replay": True}

    def follow(self, path: list[int]) -> dict[str, Any]:
        """As `Strategy.follow`."""
        return {"trace_decode_token_ids": path}

    def branches(self, trie: Trie) -> Iterator[Branch]:
        """As `Strategy.branches`: one per continuation that is not the beginning of another."""
        return (Branch(trie.path(leaf), ()) for leaf in trie.leaves())

    def request(self, trie: Trie, branch: Branch) -> Request[Query]:
        """As `Strategy.request`."""
        path = trie.spell(branch.nodes)
        params = exact_params(max_tokens=len(path), logprobs=0, **self.follow(path))
        return Request(trie.prefix, params, Query(trie, branch))


class Stepwise(Strategy):
    """One request of one step for every node that has children: nothing is forced, so any model runner will do."""

    name = "stepwise"
    needs = ("logprob_token_ids", "flat_logprobs")

    def branches(self, trie: Trie) -> Iterator[Branch]:
        """As `Strategy.branches`: one to each node that has children."""
        return trie.branches(leaves_only=False)

    def request(self, trie: Trie, branch: Branch) -> Request[Query]:
        """As `Strategy.request`."""
        params = exact_params(max_tokens=1, logprob_token_ids=trie.spell(branch.children))
        return Request(trie.prefix.then(trie.spell(branch.nodes)), params, Query(trie, branch))


class Whole(Strategy):
    """The reference for the others: each continuation by itself, its context computed again every time."""

    name = "whole"
    needs = ("prompt_logprobs", "logprob_token_ids", "flat_logprobs")

    def branches(self, trie: Trie) -> Iterator[Branch]:
        """As `Strategy.branches`: one per continuation that is not the beginning of another."""
        # the last token is asked for, not read: it may be the last one of the window
        return (Branch(trie.path(trie.parents[leaf]), (leaf,)) for leaf in trie.leaves())

    def request(self, trie: Trie, branch: Branch) -> Request[Query]:
        """As `Strategy.request`."""
        return _reading(trie, branch)


def _reading(trie: Trie, branch: Branch, **options: Any) -> Request[Query]:
    """The request that reads the path of a branch; without options, it computes the prefix again."""
    params = exact_params(max_tokens=1, prompt_logprobs=0, logprob_token_ids=trie.spell(branch.children), **options)
    return Request(trie.prefix.then(trie.spell(branch.nodes)), params, Query(trie, branch, "read"))


STRATEGIES: tuple[type[Strategy], ...] = (Forced, Replay, Stepwise, Whole)


def choose_strategy(name: str) -> Strategy:
    """The strategy of that name; "auto" is the first one available here. Raises InputError with the reason."""
    known = {strategy.name: strategy() for strategy in STRATEGIES}
    if name == AUTO:
        name = next((strategy.name for strategy in known.values() if not strategy.obstacle()), Forced.name)
    if name not in known:
        reason = "there is no such strategy"
    elif reason := known[name].obstacle():
        reason = f"it is not available here: {reason}"
    else:
        return known[name]
    available = ", ".join(strategy.name for strategy in known.values() if not strategy.obstacle())
    hint = f"one of {AUTO}, {available}"
    raise InputError(f"scoring by {name!r}: {reason}", where="engine setting scoring", hint=hint)


def exact_params(**options: Any) -> SamplingParams:
    """Greedy, never ended early, with flat lists of log-probabilities."""
    # no min_tokens: it would remove the end token from the choice, and so from the likeliest tokens
    options |= {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "flat_logprobs": True}
    options["output_kind"] = RequestOutputKind.FINAL_ONLY
    return SamplingParams(skip_clone=True, **options)  # made for one request, so vLLM need not copy them


def check_cache(output: RequestOutput, num_prefix: int) -> None:
    """Refuse values of positions that were not computed.

    The logits of the last prefix token score the first token, so its position must have been computed.
    """
    if _num_cached(output) >= num_prefix:
        raise ResumableError(
            f"{output.num_cached_tokens} tokens came from the prefix cache, but the logits of token {num_prefix} were "
            "needed: its score would be arbitrary"
        )


def _num_cached(output: RequestOutput) -> float:
    # unknown is as bad as too many
    return float("inf") if output.num_cached_tokens is None else output.num_cached_tokens


def _read_node(trie: Trie, node: int, values: Any, at: int) -> None:
    _check_token(trie.tokens[node], values.token_ids[at])
    trie.found[node] = values.logprobs[at], values.ranks[at] == 1


def _check_token(wanted: int, returned: int) -> None:
    if returned != wanted:
        raise ResumableError(f"token {wanted} was requested, vLLM returned {returned}")


def distillation_request(strategy: Strategy, query: Example, num_top: int) -> Request[Example]:
    """The request that finds the `num_top` likeliest tokens at each position of an example's path."""
    tokens = query[1]
    options = strategy.follow(tokens.path)
    if options is None:
        params = exact_params(max_tokens=1, prompt_logprobs=num_top)
        return Request(tokens.prefix.then(tokens.path), params, query)
    return Request(tokens.prefix, exact_params(max_tokens=len(tokens.path), logprobs=num_top, **options), query)


def read_distribution(
    example: DistillationExample, vocabulary: str, request: Request[Example], output: RequestOutput
) -> Distribution:
    """The distributions of an example, laid out for a student that reads the text without its context."""
    tokens, num_top = request.tag[1], example.num_top
    check_cache(output, len(tokens.prefix))
    written = len(request.prompt) == len(tokens.prefix)
    values: Any = output.outputs[0].logprobs if written else output.prompt_logprobs
    first = 0 if written else len(tokens.prefix)
    top_ids: list[int] = []
    top_log_probs: list[float] = []
    for token, at in zip(tokens.path, values.start_indices[first:], strict=True):
        _check_token(token, values.token_ids[at])  # the text's own token comes before the likeliest ones
        top_ids += values.token_ids[at + 1 : at + 1 + num_top]
        top_log_probs += values.logprobs[at + 1 : at + 1 + num_top]
    for end in tokens.row[len(tokens.path) + 1 :]:
        others = (token for token in range(num_top) if token != end)  # the tokens of one position are distinct
        top_ids += [end, *others][:num_top]
        top_log_probs += [0.0] + [_ZERO] * (num_top - 1)
    return Distribution(
        example.text_id, example.text, tuple(tokens.row), tuple(top_ids), tuple(top_log_probs), num_top, vocabulary
    )
