"""Conversions between numpy, Python and Arrow arrays by their buffers: pyarrow's own import pandas at first use."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def string_array(texts: Sequence[str]) -> pa.StringArray:
    """Texts of less than 2 GiB in all as an Arrow array."""
    encoded = list(map(str.encode, texts))
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, encoded), np.int32, len(encoded)), out=offsets[1:])
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def hex_array(digests: bytes, size: int) -> pa.StringArray:
    """Digests of `size` bytes each, one after another, as hex digits."""
    offsets = np.arange(len(digests) // size + 1, dtype=np.int32) * (2 * size)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(digests.hex().encode()))


def int_array(numbers: Sequence[int] | npt.NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Numbers as int32 or int64."""
    values = np.array(numbers, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def list_array(lists: Sequence[Sequence[int]]) -> pa.ListArray:
    """Lists of integers."""
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, lists), np.int32, len(lists)), out=offsets[1:])
    values = int_array(list(itertools.chain.from_iterable(lists)), pa.int64())
    return pa.ListArray.from_arrays(int_array(offsets.astype(np.int64), pa.int32()), values)


def buffer_of(texts: pa.StringArray) -> tuple[Offsets, Bytes]:
    """Offsets (n + 1, from 0) and bytes of a string array, without a copy of the bytes."""
    _, offsets, content = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    whole = np.frombuffer(content, np.uint8) if content else np.zeros(0, np.uint8)
    return bounds - bounds[0], whole[bounds[0] : bounds[-1]]


def numbers_of(numbers: pa.Array) -> npt.NDArray[np.int64]:
    """The values of an int32 or int64 array without nulls."""
    values = np.frombuffer(numbers.buffers()[1], numbers.type.to_pandas_dtype())
    return values[numbers.offset : numbers.offset + len(numbers)].astype(np.int64)
