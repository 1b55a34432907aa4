"""Files that are written whole or not at all."""

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, which does not remove open files
    fcntl = None  # type: ignore[assignment]  # a name for what is missing


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: it has either its old content or the new.

    The bytes are written to a temporary file in the same directory, which replaces the old one once
    it is on disk. If that fails, the temporary file is removed and the old one remains. Symbolic
    links are followed: the target is replaced.

    Parameters
    ----------
    path : str or path-like
    write : callable
        Called with a binary file, open for writing and reading.

    Raises
    ------
    OSError
        If it cannot be written. The error names ``path``.
    ValueError
        If the path is a pipe, a device or the like.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"path={os.fspath(path)!r} is a directory; name a file.")
    if target.exists() and not target.is_file():
        raise ValueError(f"path={os.fspath(path)!r} is no regular file; name another.")
    temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.tmp")
    try:
        _write_and_replace(temporary, target, write)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    _sync_directory(target.parent)


def _write_and_replace(temporary: Path, target: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with _new_locked_file(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                _replace(temporary, target)  # still locked, so it cannot be mistaken for an orphan
        if fcntl is None:  # Windows cannot move a file that is open
            _replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)  # already moved if Ctrl-C came late
        raise


def _new_locked_file(path: Path) -> BinaryIO:
    """Create a file that :func:`remove_orphans` does not remove while it is open."""
    while True:
        file = open(path, "x+b")  # unlike tempfile, with the usual permissions of new files
        if fcntl is not None:
            with suppress(OSError):  # file systems without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # it was removed as an orphan before it was locked


def _replace(temporary: Path, target: Path) -> None:
    if target.exists():
        os.chmod(temporary, target.stat().st_mode & 0o777)
    os.replace(temporary, target)


def remove_orphans(path: str | os.PathLike) -> None:
    """Remove temporary files for a path that were left by killed writers.

    A living writer holds a lock on its file, so files that are being written are not removed.
    """
    target = Path(os.path.realpath(path))
    for temporary in target.parent.glob(f"{_prefix(target)}{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):  # locked, or removed by another process
            if fcntl is None:
                temporary.unlink()
                continue
            with open(temporary, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # a writer whose file was removed creates another of the same name
                if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
                    temporary.unlink()


def _prefix(target: Path) -> str:
    # a hash is short enough even for names of maximum length, and different for each name
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def _sync_directory(directory: Path) -> None:
    """Flush a directory's new entry to disk, if the system can open directories."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
