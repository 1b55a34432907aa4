"""The report on a GPU, `make gpu`, is tried here from end to end on small works."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import gpu

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
# these start processes, in which nothing is simulated
PARTS = [name for name in gpu.PARTS if name not in ("tests", "sanitizer")]


def test_every_part_is_told_and_written_down(tmp_path, monkeypatch, capsys):
    # a compiler of kernels for a GPU is not here
    monkeypatch.setattr(torch, "compile", lambda module: module)
    arguments = ["--quick", "--rounds", "1", "--output", str(tmp_path), "--parts", *PARTS]
    assert gpu.main(arguments) == 0, capsys.readouterr().out
    report = (tmp_path / "report.md").read_text()
    figures = json.loads((tmp_path / "report.json").read_text())
    assert "failed" not in report
    assert report.count("\n## ") == len(PARTS)
    assert len(figures["An epoch of training"]) == 1 + len(gpu.WAYS) * len(gpu.QUICK.batch_sizes)
    assert figures["Memory of a fit"]["50"]["peak"] > figures["Memory of a fit"]["50"]["after"] > 0
    assert "GPU simulated" in report


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    def fail(size, rounds):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu.PARTS, "search", fail)
    arguments = ["--quick", "--rounds", "1", "--output", str(tmp_path), "--parts"]
    assert gpu.main([*arguments, "search", "memory"]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "no such kernel" in report
    assert "Memory of a fit" in report


def test_a_way_to_train_that_fails_is_a_cell_of_the_table(monkeypatch):
    def fail(work, X, y):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(gpu, "WAYS", {"sknn_deep": gpu.ours, "torch.compile": fail})
    part = gpu.training(gpu.QUICK, 1)
    assert part.rows[1] == ["torch.compile", "failed: no compiler", "failed: no compiler"]
    assert part.rows[0][1].endswith("ms")


def test_no_part_is_begun_when_the_time_is_over(tmp_path):
    arguments = ["--quick", "--output", str(tmp_path), "--minutes", "0", "--parts", "memory"]
    assert gpu.main(arguments) == 0
    assert "left out: the time is over" in (tmp_path / "report.md").read_text()


def test_a_process_that_fails_is_quoted():
    with pytest.raises(RuntimeError, match="no device here"):
        gpu._of_process("a part", [sys.executable, "-c", "raise SystemExit('no device here')"], {})


def test_jax_trains_the_same_network():
    pytest.importorskip("jax")
    work = gpu.Work((20, 8, 3), batch_size=50, epochs=30, n_samples=300)
    X = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    W_1, b_1, W_2, b_2 = map(np.asarray, gpu.with_jax(work, X, X[:, :3].argmax(axis=1))())
    found = (np.maximum(X @ W_1 + b_1, 0) @ W_2 + b_2).argmax(axis=1)
    assert np.mean(found == X[:, :3].argmax(axis=1)) > 0.5


def test_each_kind_is_fitted_for_the_sanitizer():
    gpu.fit_each_kind()
