"""Named arrays and a few facts in one file, memory-mapped when it is read.

Promises: a file appears whole or not at all; one that is damaged, truncated or of another kind is refused rather than
misread.  Large arrays that are only looked into can be left out of the check when a file is opened: they are then
read piece by piece (:class:`StoredArray`), which the caller checks, and never become resident.

File format: magic (8 bytes), the header's length (uint64) and CRC-32 (uint32), the header (JSON: the facts, and dtype,
length, offset and CRC-32 of every array), then the arrays, each aligned to 64 bytes.
"""

import json
import mmap
import os
import struct
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.errors import InputError

_PREFIX = struct.Struct("<8sQI")
_ALIGN = 64
_COPIED_AT_ONCE = 1 << 20  # elements


class StoredArray:
    """An array in a file, of which slices are read as they are asked for.

    Not memory-mapped: pages once touched would stay resident, 1.3 GB after an epoch over a large index, and a file cut
    short while in use would kill the process.

    Args:
        fd: of the file, open for reading; it may be closed afterwards.
        dtype: of the array.
        length: of the array.
        start: where in the file it begins, in bytes.
    """

    def __init__(self, fd: int, dtype: np.dtype, length: int, start: int) -> None:
        self.dtype = dtype
        self._length = length
        self._start = start
        self._fd = os.dup(fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
        weakref.finalize(self, os.close, self._fd)

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self._length * self.dtype.itemsize

    def __getitem__(self, part: slice) -> np.ndarray:
        """Elements from ``start`` to ``stop``; fewer where the file has been cut short."""
        size = self.dtype.itemsize
        data = os.pread(self._fd, (part.stop - part.start) * size, self._start + part.start * size)
        return np.frombuffer(data, self.dtype, len(data) // size)

    def tofile(self, file: IO[bytes]) -> None:
        """Copy the array to where a file stands."""
        for at in range(0, self._length, _COPIED_AT_ONCE):
            self[at : min(at + _COPIED_AT_ONCE, self._length)].tofile(file)


def write_arrays(
    path: str | os.PathLike[str],
    magic: bytes,
    facts: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    sliced: "Mapping[str, np.ndarray | StoredArray]",
) -> None:
    """Write a file, replacing an earlier one.

    Args:
        path: the file.
        magic: 8 bytes that name the kind of file, and by the last of them its version.
        facts: anything JSON can hold.
        arrays: one-dimensional, of numbers or of records of numbers.
        sliced: arrays to keep without a checksum, which :func:`read_arrays` gives as StoredArrays.
    """
    table: dict[str, dict[str, Any]] = {}
    at = 0
    everything: dict[str, np.ndarray | StoredArray] = {**arrays, **sliced}
    for name, array in everything.items():
        at += -at % _ALIGN
        table[name] = {
            "dtype": array.dtype.descr if array.dtype.names else array.dtype.str,
            "length": len(array),
            "offset": at,
            "crc": zlib.crc32(arrays[name].data) if name in arrays else None,
        }
        at += array.nbytes
    header = json.dumps({"facts": facts, "arrays": table, "num_bytes": at}).encode()
    base = _data_start(len(header))
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_PREFIX.pack(magic, len(header), zlib.crc32(header)) + header)
            for name, array in everything.items():
                file.seek(base + table[name]["offset"])
                array.tofile(file)
            file.truncate(base + at)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(
    path: str | os.PathLike[str], magic: bytes, kind: str
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, StoredArray]]:
    """Open a file and check it, but for the arrays without a checksum.

    Args:
        path: the file.
        magic: as it was written.
        kind: what to call the file in messages.

    Returns:
        The facts, and by name the arrays, which cannot be written to, and those without a checksum.

    Raises:
        InputError: the file cannot be read, or is not a whole file of this kind.
    """
    try:
        with open(path, "rb") as file:
            return _read_arrays(file, path, magic, kind)
    except OSError as error:
        raise InputError(f"the {kind} {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the header of the {kind} {path} makes no sense: delete it and make it again") from error


def _read_arrays(
    file: IO[bytes], path: str | os.PathLike[str], magic: bytes, kind: str
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, StoredArray]]:
    """All comes from one open file: another one may take its place under the path at any time."""
    remedy = f"delete {path} and make it again"
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(_PREFIX.size)
    found, length, checksum = _PREFIX.unpack(prefix) if len(prefix) == _PREFIX.size else (b"", 0, 0)
    if found[:-1] != magic[:-1]:
        raise InputError(f"{path} is no {kind}: move it, or name another file")
    if found != magic:
        raise InputError(f"{path} is no {kind} of this version: {remedy}")
    header = file.read(length) if length <= size else b""
    if zlib.crc32(header) != checksum:
        raise InputError(f"the header of the {kind} {path} is damaged: {remedy}")
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content = json.loads(header)
    base = _data_start(len(header))
    if size != base + content["num_bytes"]:
        raise InputError(f"the {kind} {path} has {size} bytes, not {base + content['num_bytes']}: {remedy}")
    arrays: dict[str, np.ndarray] = {}
    sliced: dict[str, StoredArray] = {}
    for name, entry in content["arrays"].items():
        descr = entry["dtype"]
        dtype = np.dtype(descr if isinstance(descr, str) else [tuple(field) for field in descr])
        start = base + entry["offset"]
        if dtype.hasobject or not base <= start <= start + entry["length"] * dtype.itemsize <= size:
            raise ValueError(name)
        if entry["crc"] is None:
            sliced[name] = StoredArray(file.fileno(), dtype, entry["length"], start)
            continue
        array = np.frombuffer(mapping, np.uint8, entry["length"] * dtype.itemsize, start).view(dtype)
        if zlib.crc32(array.data) != entry["crc"]:
            raise InputError(f"the {kind} {path} is damaged ({name}): {remedy}")
        arrays[name] = array
    return content["facts"], arrays, sliced


def _data_start(header_length: int) -> int:
    end = _PREFIX.size + header_length
    return end + -end % _ALIGN
