"""Reading skops files [1]_, which are zip archives, from untrusted sources.

skops decides by name which types a file may use. Before that, limits that depend on the size of the
file are checked: bytes to unpack, numbers in arrays, and parts that are referenced in several
places, which skops' audit would visit once for each path that leads to them.

References
----------
.. [1] https://skops.readthedocs.io
"""

import json
import math
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from typing import IO, Any, BinaryIO
from zipfile import ZipFile

import numpy as np

# A file may unpack to this many bytes, or to this many times its size: skops compresses sparse
# matrices.
_MAX_UNPACKED, _MAX_RATIO = 2**24, 20
# The schema is parsed into Python objects, which take many times its bytes. It may be as long as
# the file or, in a small compressed file, this long.
_MAX_SCHEMA = 2**20
# skops has fixed vulnerabilities of older protocols.
_OLDEST_PROTOCOL = 2


class UntrustedError(ValueError):
    """The file uses types that are not trusted."""


def check_regular(path: str | os.PathLike) -> None:
    """Raise a ValueError if a path is a directory, a pipe or a device; opening it might block."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {'a directory' if stat.S_ISDIR(mode) else 'no regular file'}.")


def check_generator(state: Mapping[str, Any]) -> None:
    """Raise a ValueError for a ``RandomState`` state that would make NumPy read out of bounds."""
    words, position = state["state"]["key"], state["state"]["pos"]
    if not (type(position) is int and 0 <= position <= 624 and np.asarray(words)[1:].any()):
        raise ValueError("it holds a generator of random numbers in a state that there is not.")


def read(
    path: str | os.PathLike,
    loaders: Mapping[str, Collection[str]],
    trusted: Iterable[str | type] = (),
) -> Any:
    """Return the content of a skops file.

    Parameters
    ----------
    path : str or path-like
    loaders : mapping of str to collection of str
        Trusted types beyond skops' own, each with the skops loaders that may use it: for
        instance, a function may be referenced but not called.
    trusted : iterable of str or type, default=()
        Types that the user trusts, however they are used.

    Raises
    ------
    UntrustedError
        If the file uses other types.
    ValueError
        If it is damaged or exceeds the limits.
    OSError
        If it cannot be opened.
    """
    import skops.io

    with open(path, "rb") as file:
        try:
            names = _checked_names(file, os.fstat(file.fileno()).st_size, loaders)
            # skops copies the list for each part
            return skops.io.load(file, trusted=[*(names & loaders.keys()), *trusted])
        except skops.io.exceptions.UntrustedTypesFoundException as error:
            raise UntrustedError(str(error)) from error
        except MemoryError:
            raise
        except RecursionError as error:
            raise ValueError("it is nested too deeply.") from error
        except Exception as error:  # forged bytes may cause any error in zipfile, NumPy and skops
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"it is damaged, or no file of skops: {reason}") from error


def _checked_names(file: BinaryIO, size: int, loaders: Mapping[str, Collection[str]]) -> set[str]:
    """Check the limits of a file, and return the names of all types in it."""
    with ZipFile(file) as archive:
        check = _Check(archive, size, loaders)
        schema = archive.getinfo("schema.json")
        if schema.file_size > max(_MAX_SCHEMA, size):
            raise ValueError(f"its schema of {schema.file_size} bytes is too long.")
        schema = json.loads(archive.read(schema))
        if not isinstance(schema, dict) or not schema.get("protocol", 0) >= _OLDEST_PROTOCOL:
            raise ValueError(f"it is not of skops' protocol {_OLDEST_PROTOCOL} or newer.")
        check.count(schema)
        return check.names


class _Check:
    """A traversal of a file's parts as listed in its schema; ``names`` collects their types.

    skops writes a part that is referenced in several places in full each time, and uses the first
    for all when reading. So parts with the same id have equally many parts below them; this bounds
    any traversal by the length of the schema, and excludes cycles.
    """

    def __init__(self, archive: ZipFile, size: int, loaders: Mapping[str, Collection[str]]):
        self._archive, self._size, self._loaders = archive, size, loaders
        self._n_unpacked = 0
        self._n_below: dict[Any, Any] = {}
        self._owners: dict[str, int] = {}
        self._check_sizes(archive, size)
        self.names: set[str] = set()

    def count(self, value: Any) -> int:
        """Check the parts in a piece of the schema, and return their number."""
        if isinstance(value, list):
            return sum(map(self.count, value))
        if not isinstance(value, dict):
            return 0
        n_parts = sum(map(self.count, value.values()))
        # in a dict of content, the values are parts, whatever the keys are
        is_part = isinstance(value.get("__loader__"), str)
        if is_part or not isinstance(value.get("__id__"), dict | None):
            n_parts += 1
            self._check_part(value, n_parts)
        return n_parts

    def _check_part(self, part: dict[str, Any], n_parts: int) -> None:
        number, loader = part["__id__"], part["__loader__"]
        name = f"{part['__module__']}.{part['__class__']}"
        self.names.add(name)
        if type(number) is not int or number <= 0:
            raise ValueError(f"{number!r} is no id of a part.")
        if self._n_below.setdefault(number, n_parts) != n_parts:
            raise ValueError(f"two different parts have the id {number}.")
        if loader not in self._loaders.get(name, (loader,)):
            raise ValueError(f"{name} may not be loaded by {loader}.")
        if "file" not in part:
            return
        member = self._archive.getinfo(part["file"])
        if self._owners.setdefault(member.filename, number) != number:
            raise ValueError(f"several parts share {member.filename!r}.")
        if loader not in ("NdArrayNode", "SparseMatrixNode"):
            return
        with self._archive.open(member) as file:
            if loader == "NdArrayNode":
                return self._check_array(file, member.file_size, name)
            with ZipFile(file) as inner:
                self._check_sizes(inner, member.file_size)
                for info in inner.infolist():
                    with inner.open(info) as array:
                        self._check_array(array, info.file_size, "numpy.ndarray")

    def _check_sizes(self, archive: ZipFile, size: int) -> None:
        """Raise an error if members overlap, or unpack to much more than the file's size."""
        members = archive.infolist()
        self._n_unpacked += sum(member.file_size for member in members)
        if self._n_unpacked > max(_MAX_UNPACKED, _MAX_RATIO * self._size):
            raise ValueError(f"{self._size} bytes may not unpack to {self._n_unpacked}.")
        if sum(member.compress_size for member in members) > size:
            raise ValueError("its members overlap.")

    def _check_array(self, file: IO[bytes], size: int, name: str) -> None:
        """Raise an error if an array's header does not match its size or type."""
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        if math.prod(shape) * max(1, dtype.itemsize) != size - file.tell():
            raise ValueError(f"an array of shape {shape} and type {dtype} is not what it states.")
        if name != "numpy.ndarray" and (shape or name != f"numpy.{dtype.type.__name__}"):
            raise ValueError(f"an array of shape {shape} and type {dtype} is no {name}.")
