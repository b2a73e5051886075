"""Named random streams from one seed: adding a stream never shifts another one."""

import hashlib
import random
from collections.abc import Mapping


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on the root seed and on the whole list of names, the same on every machine."""
    key = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *names: str | int) -> random.Random:
    """The random stream of that name, e.g. `stream(0, "reversals", "preambles")`."""
    return random.Random(derive_seed(seed, *names))


def fingerprint(*parts: object) -> str:
    """32 hex digits (128 bits) that name a content; used for ids and for the keys of resumable work.

    Each part's length is hashed with it, so that no two lists of parts can be confused.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def vocabulary_fingerprint(vocabulary: Mapping[str, int]) -> str:
    """Names a vocabulary by its tokens and their ids: token ids mean nothing in another one."""
    return fingerprint(*sorted(vocabulary.items()))
