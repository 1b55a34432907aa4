"""Files that are written whole or not at all."""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it has its old content or the new, whatever happens in between.

    The bytes go to a new file in the same directory, which takes the old one's place once
    they are on the disk. Where that fails, the new file is removed and the old one stays. A
    symbolic link is followed: what it points to is replaced.

    Parameters
    ----------
    path : str or path-like
    write : callable
        Called with a binary file, open for writing.

    Raises
    ------
    OSError
        If it cannot be written. The error names ``path``.
    ValueError
        If there is a pipe, a device or the like.
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
        with open(temporary, "xb") as file:  # with the permissions that the process gives new files
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # closed: Windows replaces no file that is open
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)  # it has moved already where Ctrl-C came late
        raise


def remove_temporaries(path: str | os.PathLike) -> None:
    """Remove what processes that were killed in :func:`atomic_write` have left of new files."""
    target = Path(os.path.realpath(path))
    for temporary in target.parent.glob(f"{_prefix(target)}{'[0-9a-f]' * 16}.tmp"):
        temporary.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    # a name of any length leaves room for more, and another name has another beginning
    return f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}."


def _sync_directory(directory: Path) -> None:
    """Put a directory's new entry on the disk, where the system lets a directory be opened."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
