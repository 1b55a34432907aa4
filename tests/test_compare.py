"""Two checkouts are timed in turn, each with a package of its own."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import compare


class Fake:
    """Answers a row with the number of calls that all have had."""

    calls: list[str]

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def measure(self, row):
        self.calls.append(self.name)
        return float(len(self.calls))


def test_checkouts_take_turns_and_the_order_changes():
    calls: list[str] = []
    seconds = compare.alternated(Fake("here", calls), Fake("there", calls), "fit", rounds=2)
    assert calls == ["there", "here", "here", "there"]
    assert seconds == {"sknn_deep": [2.0, 3.0], "the other": [1.0, 4.0]}


def test_worker_measures_the_package_of_its_checkout(tmp_path):
    """A package that is none has no estimators: the rows cannot come from anywhere else."""
    (tmp_path / "sknn_deep").mkdir()
    (tmp_path / "sknn_deep" / "__init__.py").write_text("raise SystemExit('from the checkout')")
    with (
        pytest.raises(RuntimeError, match="has ended"),
        compare.worker(tmp_path, "overhead", n_threads=1),
    ):
        pass
    with compare.worker(compare.ROOT, "overhead", n_threads=1) as worker:
        assert "clone" in worker.rows
        assert worker.measure("clone") > 0


def test_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"there is no sknn_deep/__init__.py"):
        compare.compare("overhead", Path(tmp_path), SimpleNamespace(threads=1, rounds=1))
