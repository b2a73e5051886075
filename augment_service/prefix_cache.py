"""What an engine's prefix cache will have of the prompts that it is asked: a simulation, token by token.

Pure. Blocks of tokens are cached with all that precedes them, and the one that was used the longest ago goes first. A
shared beginning is hashed once, so that a prompt costs its own tokens and not those of its context.
"""

from collections import OrderedDict
from collections.abc import Sequence

from augment_service.tokens import TokenRow

_LONG = 64  # blocks; a longer shared beginning is one entry
_MOST_HEADS = 64
Head = tuple[Sequence[int], tuple[int, ...], int, list[int]]  # the tokens, keys, blocks, tokens of no full block


class PrefixCache:
    """The cache of one engine: blocks of `block` tokens, `capacity` blocks in all."""

    def __init__(self, block: int, capacity: int) -> None:
        self._block, self.capacity = block, capacity
        self._entries: OrderedDict[int, int] = OrderedDict()  # blocks of each entry
        self._num_blocks = 0
        self._heads: dict[int, Head] = {}

    def read(self, row: TokenRow) -> int:
        """How many tokens of a prompt are cached; afterwards all of its full blocks are.

        The last token is never taken from the cache: its logits decide what is written.
        """
        _, keys, num_blocks, rest = self._head(row.head)
        own = [*rest, *row.tail]
        cached, is_hit = 0, True
        weight = num_blocks // len(keys) if keys else 0
        key = 0
        for key in keys:
            is_hit = is_hit and key in self._entries
            cached += weight * is_hit
            self._use(key, weight)
        for start in range(0, len(own) - self._block + 1, self._block):
            key = hash((key, tuple(own[start : start + self._block])))
            is_hit = is_hit and key in self._entries
            cached += is_hit
            self._use(key, 1)
        while self._num_blocks > self.capacity:
            self._num_blocks -= self._entries.popitem(last=False)[1]
        return min(cached, (len(row) - 1) // self._block) * self._block

    def _use(self, key: int, weight: int) -> None:
        if key in self._entries:
            self._entries.move_to_end(key)
        else:
            self._entries[key] = weight
            self._num_blocks += weight

    def _head(self, head: Sequence[int]) -> Head:
        """The entries of a shared beginning."""
        found = self._heads.get(id(head))
        if found is None:
            if len(self._heads) == _MOST_HEADS:
                del self._heads[next(iter(self._heads))]
            found = self._heads[id(head)] = self._read_head(head)
        return found

    def _read_head(self, head: Sequence[int]) -> Head:
        num_blocks = len(head) // self._block
        rest = list(head[num_blocks * self._block :])
        if num_blocks > _LONG:
            return head, (hash(tuple(head[: num_blocks * self._block])),), num_blocks, rest
        keys, key = [], 0
        for number in range(num_blocks):
            key = hash((key, tuple(head[number * self._block : (number + 1) * self._block])))
            keys.append(key)
        return head, tuple(keys), num_blocks, rest
