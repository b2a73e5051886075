"""What weights are, whatever the file that holds them: a hash over the tensors of a model folder.

Reads: the `*.safetensors` files of a folder (header and bytes, no torch). Writes: nothing.
"""

import hashlib
import json
import mmap
from pathlib import Path

from data.errors import InputError

_LENGTH_BYTES = 8  # a safetensors file opens with the length of its JSON header, little-endian


def weights_fingerprint(folder: Path) -> str:
    """32 hex digits of the tensors' names, dtypes, shapes and bytes.

    The path, the number of files, their metadata and the order of the tensors in them do not matter.
    Raises InputError where there are no weights or a file is cut off.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            "no *.safetensors weights here", where=str(folder), hint="name the folder of a model saved as safetensors"
        )
    digests = {name: digest for path in files for name, digest in _tensor_digests(path).items()}
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(digests):
        whole.update(digests[name])
    return whole.hexdigest()


def _tensor_digests(path: Path) -> dict[str, bytes]:
    """One digest for each tensor of a file, under the tensor's name."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < start or size == 0:
            raise _cut_off(path)
        header = json.loads(file.read(start - _LENGTH_BYTES))
        header.pop("__metadata__", None)
        if size < start + max((entry["data_offsets"][1] for entry in header.values()), default=0):
            raise _cut_off(path)
        digests = {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                digest = hashlib.blake2b(json.dumps([name, entry["dtype"], entry["shape"]]).encode(), digest_size=16)
                with content[start + first : start + last] as tensor:
                    digest.update(tensor)
                digests[name] = digest.digest()
    return digests


def _cut_off(path: Path) -> InputError:
    return InputError("the file of weights is cut off", where=str(path), hint="copy or download the model again")
