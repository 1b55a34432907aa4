"""The library of the simulated device is compiled once for each version of torch and its source."""

import threading
import time

import pytest

from tests.simulated_cuda import build


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Offer the folders in which something was compiled, which nothing is."""
    folders = []

    def compile_slowly(folder):
        folders.append(folder)
        time.sleep(0.05)
        (folder / "unfinished.so").write_text("compiled")
        return folder / "unfinished.so"

    monkeypatch.setattr(build, "BUILDS", tmp_path)
    monkeypatch.setattr(build, "_compile", compile_slowly)
    return folders


def test_who_comes_while_another_compiles_waits_for_it(compiled):
    found = []
    threads = [threading.Thread(target=lambda: found.append(build.library())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert [path.read_text() for path in found] == ["compiled"] * 4


def test_another_version_of_torch_is_compiled_for_again(compiled, monkeypatch):
    first = build.library()
    assert build.library() == first
    monkeypatch.setattr(build.importlib.metadata, "version", lambda name: "3.0")
    assert build.library() != first
    assert len(compiled) == 2


def test_another_source_is_compiled_again(compiled, monkeypatch, tmp_path):
    first = build.library()
    (tmp_path / "source").mkdir()
    for source in build.SOURCES.iterdir():
        (tmp_path / "source" / source.name).write_text(source.read_text() + "// more\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "source")
    assert build.library() != first


def test_what_does_not_compile_says_why(tmp_path, monkeypatch):
    (tmp_path / "wrong.cpp").write_text("no code")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setattr(build, "BUILDS", tmp_path / "builds")
    with pytest.raises(RuntimeError, match=r"wrong\.cpp.* failed:\n.*error"):
        build.library()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("COMPILER", "no-such-compiler", "needs no-such-compiler, which is not installed"),
        ("sys.platform", "darwin", "needs Linux, this is darwin"),
    ],
)
def test_reason_why_nothing_can_be_simulated(name, value, reason, monkeypatch):
    assert build.reason_to_skip() == ""
    monkeypatch.setattr(f"tests.simulated_cuda.build.{name}", value)
    assert reason in build.reason_to_skip()


def test_torch_with_devices_of_its_own_is_left_alone(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(build, "_torch", lambda: tmp_path)
    assert "this one has a GPU's" in build.reason_to_skip()
