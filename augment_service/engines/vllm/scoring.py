"""Which requests find the values of token pairs, and which groups of pairs are complete. Pure but for the strategy."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

from vllm import RequestOutput

from augment_service.engines.vllm.strategies import Query, Strategy
from augment_service.engines.vllm.stream import Request
from augment_service.engines.vllm.tries import Trie
from augment_service.tokens import TokenPair, TokenRow

Values = list[tuple[float, bool]]  # per token of a continuation: log-probability, whether it is the likeliest


class Evaluation:
    """The values of every pair of some groups (items); pairs with the same prefix share one trie.

    Run `requests()`, `read` each output, and run what is appended to `more`. `num_tokens` are those of distinct pairs.
    """

    def __init__(self, strategy: Strategy, groups: Iterable[Sequence[TokenPair]]) -> None:
        self.more: deque[Request[Query]] = deque()
        self._strategy = strategy
        self._tries: dict[TokenRow, Trie] = {}
        self._nodes: list[list[tuple[Trie, list[int]]]] = []  # by group, then by pair
        self._waiting: dict[int, list[int]] = {}  # by trie, the groups with pairs in it
        self._open: Counter[int] = Counter()  # by trie, requests without an output
        self._missing: list[int] = []  # by group, tries that are not complete
        ends: dict[tuple[int, int], int] = {}
        for number, group in enumerate(groups):
            own = [(trie := self._trie(pair.prefix), trie.add(pair.continuation)) for pair in group]
            ends |= {(id(trie), nodes[-1]): len(nodes) for trie, nodes in own}
            tries = {id(trie) for trie, _ in own}
            for key in tries:
                self._waiting.setdefault(key, []).append(number)
            self._nodes.append(own)
            self._missing.append(len(tries))
        self.num_tokens = sum(ends.values())

    def requests(self) -> Iterator[Request[Query]]:
        """The requests to begin with, trie by trie."""
        for trie in self._tries.values():
            asked = list(self._strategy.requests(trie))
            self._open[id(trie)] = len(asked)
            yield from asked

    def read(self, request: Request[Query], output: RequestOutput) -> Iterator[int]:
        """Store an output's values; the groups that are complete by it."""
        following = self._strategy.read(request, output)
        self.more.extend(following)
        trie = id(request.tag.trie)
        self._open[trie] += len(following) - 1
        if not self._open[trie]:
            for group in self._waiting.pop(trie):
                self._missing[group] -= 1
                if not self._missing[group]:
                    yield group

    def values(self, group: int) -> list[Values]:
        """The values of each pair of a complete group."""
        return [[trie.found[node] for node in nodes] for trie, nodes in self._nodes[group]]

    def _trie(self, prefix: TokenRow) -> Trie:
        return self._tries.setdefault(prefix, Trie(prefix))
