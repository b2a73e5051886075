"""Fingerprints of models: of the weights, however they are split into files, the configuration and the tokenizer.

Reads the files of a model folder (safetensors headers and bytes, no torch). Hashes of weights are cached in
`$XDG_CACHE_HOME/entail/weights` or `~/.cache/entail/weights`, by the path, size and modification time of every file.
"""

import hashlib
import json
import mmap
from pathlib import Path
from typing import BinaryIO

from data.cache import cached_hash
from data.errors import InputError
from data.seeds import fingerprint

ADAPTER_CONFIG = "adapter_config.json"  # of a LoRA adapter, as peft stores it
INDEX = "model.safetensors.index.json"  # names the file of each tensor
_LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON header, little-endian
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
# Besides the weights, the files that decide what a model computes for a text.
_OTHER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def model_fingerprint(folder: Path) -> str:
    """32 hex digits of the weights, `config.json`, `generation_config.json` and the tokenizer's files."""
    present = [folder / name for name in _OTHER_FILES if (folder / name).is_file()]
    try:
        others = [(path.name, hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()) for path in present]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return fingerprint(weights_fingerprint(folder), *others)


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a LoRA adapter rather than a model's own weights."""
    return (folder / ADAPTER_CONFIG).is_file()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model's weights, sorted; other safetensors beside them are not read by anything.

    They are those that `model.safetensors.index.json` names, or `model.safetensors`, or else all. A whole copy in
    another format (`consolidated*`) is not read twice. Raises InputError if there are none, or a named one is missing.
    """
    if named := _named_files(folder):
        if missing := missing_files(folder):
            raise InputError(
                f"{len(missing)} of {len(named)} files of weights are missing, the first is {missing[0]}",
                where=str(folder / INDEX),
                hint="copy or download the model again, or wait until it is written",
            )
        return [folder / name for name in named]
    found = sorted(folder.glob("*.safetensors"))
    whole = [path for path in found if path.name == "model.safetensors"]
    files = whole or [path for path in found if not path.name.startswith("consolidated")]
    if not files:
        raise InputError(
            "no *.safetensors weights here", where=str(folder), hint="name the folder of a model saved as safetensors"
        )
    return files


def missing_files(folder: Path) -> list[str]:
    """The files that the index of the weights names and that are not there, sorted. Raises InputError."""
    return [name for name in _named_files(folder) if not (folder / name).is_file()]


def _named_files(folder: Path) -> list[str]:
    index = folder / INDEX
    try:
        return sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("this is no index of weights", where=str(index), hint="copy or download it again") from error


def weights_fingerprint(folder: Path) -> str:
    """32 hex digits of the tensors' names, dtypes, shapes and bytes.

    The path, the number of files, their metadata and the order of the tensors in them do not matter. A fingerprint
    that a `checkpoint.json` records is never trusted: this one is computed, or cached for files that did not change.
    Raises InputError if there are no weights, or a file is missing, truncated or corrupt.
    """
    files = weight_files(folder)

    def compute() -> str:
        digests = {name: digest for path in files for name, digest in _tensor_digests(path).items()}
        whole = hashlib.blake2b(digest_size=16)
        for name in sorted(digests):
            whole.update(digests[name])
        return whole.hexdigest()

    try:
        return cached_hash("weights", files, compute)
    except OSError as error:
        raise _unreadable(folder, error) from error


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a model folder. Raises InputError as `weights_fingerprint`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with path.open("rb") as file:
                entries, _ = _open_header(path, file)
        except OSError as error:
            raise _unreadable(folder, error) from error
        shapes |= {name: tuple(json.loads(kind)[2]) for name, (kind, _, _) in entries.items()}
    return shapes


def _tensor_digests(path: Path) -> dict[str, bytes]:
    """One digest for each tensor of a file, by the tensor's name."""
    with path.open("rb") as file:
        entries, start = _open_header(path, file)
        digests = {}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
            for name, (kind, first, last) in entries.items():
                digest = hashlib.blake2b(kind.encode(), digest_size=16)
                with content[start + first : start + last] as tensor:
                    digest.update(tensor)
                digests[name] = digest.digest()
    return digests


def _open_header(path: Path, file: BinaryIO) -> tuple[dict[str, tuple[str, int, int]], int]:
    """The tensors of an open file as in `_read_header`, and where their bytes start."""
    size = path.stat().st_size
    start = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size < _LENGTH_BYTES or start > _MAX_HEADER_BYTES:
        raise _corrupt(path, "its header has no valid length")
    if size < start:
        raise _corrupt(path, "it is truncated")
    return _read_header(path, file.read(start - _LENGTH_BYTES), size - start), start


def _read_header(path: Path, text: bytes, num_bytes: int) -> dict[str, tuple[str, int, int]]:
    """By tensor: name, dtype and shape as one text, and where its bytes begin and end."""
    entries = {}
    try:
        for name, entry in json.loads(text).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                entries[name] = json.dumps([name, entry["dtype"], entry["shape"]]), int(first), int(last)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, "its header is not a safetensors header") from error
    if any(not 0 <= first <= last for _, first, last in entries.values()):
        raise _corrupt(path, "its header has invalid offsets")
    if any(last > num_bytes for _, _, last in entries.values()):
        raise _corrupt(path, "it is truncated")
    return entries


def _corrupt(path: Path, what: str) -> InputError:
    return InputError(f"this safetensors file is corrupt: {what}", where=str(path), hint="copy or download it again")


def _unreadable(folder: Path, error: OSError) -> InputError:
    where = str(error.filename or folder)
    return InputError(f"the model cannot be read: {error.strerror}", where=where, hint="check the file's permissions")
