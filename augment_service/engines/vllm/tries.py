"""The continuations of one prefix as a tree of tokens, so that what they share is computed once. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from augment_service.tokens import TokenRow

MAX_CHILDREN = 128  # token ids whose log-probabilities vLLM gives at one position of one request


@dataclass(frozen=True, slots=True)
class Branch:
    """What one request computes: nodes from the root downwards, and `children` of the last one that are read there."""

    nodes: tuple[int, ...]
    children: tuple[int, ...]


@dataclass(slots=True)
class Trie:
    """Node 0 is the end of `prefix`, every other node one token more. `found` holds (nats, most likely?) per node."""

    prefix: TokenRow
    tokens: list[int] = field(default_factory=lambda: [-1])
    parents: list[int] = field(default_factory=lambda: [-1])
    children: list[dict[int, int]] = field(default_factory=lambda: [{}])
    found: dict[int, tuple[float, bool]] = field(default_factory=dict)

    def add(self, continuation: Sequence[int]) -> list[int]:
        """The nodes of a continuation, one per token; made where they are not there yet."""
        node, nodes = 0, []
        for token in continuation:
            following = self.children[node].get(token)
            if following is None:
                following = len(self.tokens)
                self.children[node][token] = following
                self.tokens.append(token)
                self.parents.append(node)
                self.children.append({})
            nodes.append(node := following)
        return nodes

    def spell(self, nodes: Sequence[int]) -> list[int]:
        """The tokens of nodes."""
        return [self.tokens[node] for node in nodes]

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from below the root to `node`."""
        nodes = []
        while node:
            nodes.append(node)
            node = self.parents[node]
        return tuple(reversed(nodes))

    def branches(self, *, leaves_only: bool) -> Iterator[Branch]:
        """One branch to each node that has children, with all of them, or with those that are leaves.

        Either way they cover every node.
        """
        for node, following in enumerate(self.children):
            children = [child for child in following.values() if not (leaves_only and self.children[child])]
            nodes = self.path(node) if children else ()
            for start in range(0, len(children), MAX_CHILDREN):
                yield Branch(nodes, tuple(children[start : start + MAX_CHILDREN]))

    def leaves(self) -> Iterator[int]:
        """The nodes after which there is none."""
        return (node for node, children in enumerate(self.children) if not children)
