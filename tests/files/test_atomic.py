"""Files are written whole or not at all."""

import errno
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from sknn_deep._files.atomic import _prefix, atomic_write, remove_orphans


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    return path


def _names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_the_new_content_takes_the_old_ones_place(path):
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert _names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(path, error):
    def write(file):
        file.write(b"half of the ne")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert _names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_system_call_that_fails_leaves_the_old_file_and_no_other(path, monkeypatch, name):
    def fail(*args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="input/output error"):
        atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert _names(path.parent) == ["file.bin"]


def test_the_content_is_on_the_disk_before_it_takes_the_place(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)

        def noted(*args, name=name, function=function):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(os, name, noted)
    atomic_write(path, lambda file: file.write(b"new"))
    assert calls == ["fsync", "replace", "fsync"]  # the last is the directory's


def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path):
    kept, new, plain = (tmp_path / name for name in ("kept", "new", "plain"))
    kept.write_bytes(b"old")
    kept.chmod(0o640)
    plain.write_bytes(b"")
    for path in (kept, new):
        atomic_write(path, lambda file: file.write(b"new"))
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert stat.S_IMODE(new.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_symbolic_link_is_followed(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    atomic_write(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_directory_is_refused(tmp_path):
    message = f"path={str(tmp_path)!r} is a directory; name a file."
    with pytest.raises(IsADirectoryError, match=re.escape(message)):
        atomic_write(tmp_path, lambda file: None)


def test_a_pipe_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=re.escape(f"path={str(path)!r} is no regular file")):
        atomic_write(path, lambda file: file.write(b"new"))
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_refused():
    with pytest.raises(ValueError, match=re.escape("path='/dev/null' is no regular file")):
        atomic_write("/dev/null", lambda file: file.write(b"new"))


def _full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "write"),
    [("nowhere/file.bin", None), ("file.bin/below", None), ("file.bin", _full), ("ä" * 128, None)],
    ids=["no directory", "below a file", "full disk", "name too long"],
)
def test_an_error_names_the_path_and_no_temporary_file(name, write, path):
    target = str(path.parent / name)
    with pytest.raises(OSError, match=re.escape(f"{target!r}")) as raised:
        atomic_write(target, write or (lambda file: file.write(b"new")))
    assert raised.value.filename == target
    assert ".tmp" not in str(raised.value)
    assert _names(path.parent) == ["file.bin"]


def test_ctrl_c_after_the_file_has_moved_is_ctrl_c(path, monkeypatch):
    replace = os.replace

    def interrupted(*args):
        replace(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert _names(path.parent) == ["file.bin"]


def _orphan(path, content=b"half of a file", name="0" * 16):
    orphan = path.with_name(f"{_prefix(path)}{name}.tmp")
    orphan.write_bytes(content)
    return orphan


@pytest.mark.parametrize("letter", ["e", "ä"])
def test_orphans_are_those_of_the_same_name(letter, tmp_path):
    one, other = (tmp_path / f"{letter * 120}_{number}" for number in (1, 2))
    own, others = _orphan(one), _orphan(other)
    remove_orphans(one)
    assert _names(tmp_path) == [others.name]
    assert not own.exists()


def test_a_file_that_is_being_written_is_no_orphan(path):
    def write(file):
        file.write(b"new")
        file.flush()
        remove_orphans(path)
        assert len(_names(path.parent)) == 2

    atomic_write(path, write)
    assert path.read_bytes() == b"new"


def test_a_file_that_has_taken_an_orphans_name_stays(path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="Windows has no locks of whole files")
    orphan, lock = _orphan(path), fcntl.flock

    def lock_too_late(*args):
        orphan.unlink()
        orphan.write_bytes(b"of another writer")
        lock(*args)

    monkeypatch.setattr(fcntl, "flock", lock_too_late)
    remove_orphans(path)
    assert orphan.read_bytes() == b"of another writer"


def test_threads_that_write_to_one_path_do_not_take_each_other_for_orphans(path):
    def write(content):
        for _ in range(40):
            remove_orphans(path)
            atomic_write(path, lambda file: file.write(content))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [b"a", b"b", b"c", b"d"]))
    assert path.read_bytes() in (b"a", b"b", b"c", b"d")
    assert _names(path.parent) == ["file.bin"]
