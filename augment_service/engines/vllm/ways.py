"""The ways to get exact log-probabilities of continuations from vLLM, and which of them the installed vLLM has.

A way turns the branches of a trie into requests and reads their outputs. All log-probabilities are raw ones, taken
before a token is forced. What a way needs is looked up, never guessed. Touches no files.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from vllm import RequestOutput, SamplingParams
from vllm.triton_utils import HAS_TRITON

from augment_service.engines.vllm.llm import Request
from augment_service.engines.vllm.sampling import RowProcessor
from augment_service.engines.vllm.tries import Branch, Trie
from data.errors import InputError, ResumableError

AUTO = "auto"


Question = tuple[Trie, Branch]


class Way(ABC):
    """A way to score. `v2_runner` says which of vLLM's model runners it needs (None: either)."""

    name: ClassVar[str]
    v2_runner: ClassVar[bool | None] = None
    needs: ClassVar[tuple[str, ...]]  # fields of SamplingParams

    def obstacle(self) -> str:
        """Why the installed vLLM cannot go this way on this machine; "" if it can."""
        missing = [name for name in self.needs if name not in SamplingParams.__struct_fields__]
        return f"this vLLM's SamplingParams has no {', '.join(missing)}" if missing else ""

    def engine_options(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM` that this way needs."""
        return {"logits_processors": [RowProcessor]}

    def follow(self, path: list[int]) -> dict[str, Any] | None:
        """Options of `SamplingParams` that make an engine write these tokens; None where this way cannot."""
        return None

    @abstractmethod
    def requests(self, trie: Trie) -> Iterator[Request[Question]]:
        """The requests that find all values of a trie."""

    @abstractmethod
    def read(self, request: Request[Question], output: RequestOutput) -> None:
        """Write what the output tells into `trie.found`."""


class Forced(Way):
    """The prefix is read once per twig; a logits processor forces the path, and its last choice is free.

    The free choice is the most likely token there, so one request judges all leaves of a node, greediness included.
    """

    name = "forced"
    v2_runner = False
    needs = ("extra_args", "logprob_token_ids", "flat_logprobs")

    def follow(self, path: list[int]) -> dict[str, Any]:
        """As `Way.follow`."""
        return {"extra_args": {"forced": path} if path else None}

    def requests(self, trie: Trie) -> Iterator[Request[Question]]:
        """As `Way.requests`: one per node that has leaves."""
        for branch in trie.twigs():
            path = trie.spell(branch.nodes)
            asked = trie.spell(branch.children)
            params = exact_params(max_tokens=len(path) + 1, logprob_token_ids=asked, **self.follow(path))
            yield Request(trie.prefix, params, (trie, branch))

    def read(self, request: Request[Question], output: RequestOutput) -> None:
        """As `Way.read`."""
        check_cache(output, len(request.prompt))
        _read_written(request, output, request.about[1].nodes)


class Replay(Way):
    """vLLM's second model runner replays the tokens of a continuation and tells what it would have thought of each."""

    name = "replay"
    v2_runner = True
    needs = ("trace_decode_token_ids", "flat_logprobs")

    def obstacle(self) -> str:
        """As `Way.obstacle`."""
        if not torch.cuda.is_available() or not HAS_TRITON:
            return "vLLM's second model runner needs CUDA and Triton"
        return super().obstacle()

    def engine_options(self) -> dict[str, Any]:
        """As `Way.engine_options`; this runner takes no logits processors."""
        return {"enable_trace_replay": True}

    def follow(self, path: list[int]) -> dict[str, Any]:
        """As `Way.follow`."""
        return {"trace_decode_token_ids": path}

    def requests(self, trie: Trie) -> Iterator[Request[Question]]:
        """As `Way.requests`: one per continuation that is not the beginning of another."""
        for leaf in trie.leaves():
            branch = Branch(trie.path(leaf), ())
            path = trie.spell(branch.nodes)
            params = exact_params(max_tokens=len(path), logprobs=0, **self.follow(path))
            yield Request(trie.prefix, params, (trie, branch))

    def read(self, request: Request[Question], output: RequestOutput) -> None:
        """As `Way.read`."""
        check_cache(output, len(request.prompt))
        _read_written(request, output, request.about[1].nodes)


class Stepwise(Way):
    """One request of one step for every node that has children: no token is forced, so any model runner will do."""

    name = "stepwise"
    needs = ("logprob_token_ids", "flat_logprobs")

    def requests(self, trie: Trie) -> Iterator[Request[Question]]:
        """As `Way.requests`."""
        for branch in trie.forks():
            params = exact_params(max_tokens=1, logprob_token_ids=trie.spell(branch.children))
            yield Request(trie.prefix + trie.spell(branch.nodes), params, (trie, branch))

    def read(self, request: Request[Question], output: RequestOutput) -> None:
        """As `Way.read`."""
        check_cache(output, len(request.prompt))
        _read_written(request, output, ())


class Whole(Way):
    """The slow twin of the others: each continuation by itself, the context computed anew for each."""

    name = "whole"
    needs = ("prompt_logprobs", "logprob_token_ids", "flat_logprobs")

    def requests(self, trie: Trie) -> Iterator[Request[Question]]:
        """As `Way.requests`: one per continuation that is not the beginning of another."""
        for leaf in trie.leaves():
            # the last token is asked for, not read: it may be the last one of the window
            branch = Branch(trie.path(trie.parents[leaf]), (leaf,))
            params = exact_params(max_tokens=1, prompt_logprobs=0, logprob_token_ids=trie.spell(branch.children))
            yield Request(trie.prefix + trie.spell(branch.nodes), params, (trie, branch))

    def read(self, request: Request[Question], output: RequestOutput) -> None:
        """As `Way.read`."""
        trie, branch = request.about
        check_cache(output, len(trie.prefix))
        values = output.prompt_logprobs
        for at, node in enumerate(branch.nodes, start=len(trie.prefix)):
            _read_node(trie, node, values, values.start_indices[at])
        _read_written(request, output, ())


WAYS: tuple[type[Way], ...] = (Forced, Replay, Stepwise, Whole)


def choose_way(name: str) -> Way:
    """The way of that name; "auto" is the first that has no obstacle here. Raises InputError with the reason."""
    ways = {way.name: way() for way in WAYS}
    if name == AUTO:
        name = next((way.name for way in ways.values() if not way.obstacle()), Forced.name)
    if name not in ways:
        reason = "there is no such way"
    elif reason := ways[name].obstacle():
        reason = f"it is not to be had here: {reason}"
    else:
        return ways[name]
    open_ways = ", ".join(way.name for way in ways.values() if not way.obstacle())
    raise InputError(f"scoring by {name!r}: {reason}", where="scoring", hint=f"one of {AUTO}, {open_ways}")


def exact_params(**options: Any) -> SamplingParams:
    """Greedy, never ended early, told in flat lists."""
    # no min_tokens: it would take the end token out of the choice, and with it out of what is most likely
    options |= {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "flat_logprobs": True}
    return SamplingParams(skip_clone=True, **options)  # made for one request, so vLLM need not copy them


def check_cache(output: RequestOutput, num_prefix: int) -> None:
    """Refuse values of positions that were not computed.

    The logits of the last prefix token score the first token, so its position must have been computed.
    """
    if output.num_cached_tokens is None or output.num_cached_tokens >= num_prefix:
        raise ResumableError(
            f"{output.num_cached_tokens} tokens came from the prefix cache, though token {num_prefix} is to be scored: "
            "what the engine says of it may be anything"
        )


def _read_written(request: Request[Question], output: RequestOutput, nodes: tuple[int, ...]) -> None:
    """The values of tokens that were written, and then of the branch's children, at the position after them."""
    (trie, branch), written = request.about, output.outputs[0].logprobs
    for step, node in enumerate(nodes):
        _read_node(trie, node, written, written.start_indices[step])
    if branch.children:
        start = written.start_indices[len(nodes)]
        best = written.token_ids[start]
        for at, child in enumerate(branch.children, start=start + 1):
            if written.token_ids[at] != trie.tokens[child]:
                raise ResumableError(f"token {trie.tokens[child]} was asked about, {written.token_ids[at]} came back")
            trie.found[child] = written.logprobs[at], best == trie.tokens[child]


def _read_node(trie: Trie, node: int, values: Any, at: int) -> None:
    if values.token_ids[at] != trie.tokens[node]:
        raise ResumableError(f"token {trie.tokens[node]} was forced, {values.token_ids[at]} came back")
    trie.found[node] = values.logprobs[at], values.ranks[at] == 1
