"""Everything measured on a GPU, by one command: ``python -m benchmarks.gpu`` or ``make gpu``.

It runs the tests that need a device, torch's CUDA sanitizer over one fit of each kind, then
benchmarks: training compared with other ways to train the same network, the types of products, a
fused search, predictions, memory, and a profile. It needs neither a network connection nor data:
the rows are random, of MNIST's shape. Everything is printed, and written as Markdown and JSON to
one folder.

A training is timed twice, for fewer and for more epochs, and the figure is the difference per
epoch, which excludes compilation, recording of graphs and the transfer of the data. A part that
fails reports why, and the others continue.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness
from benchmarks.contenders import (
    Work,
    ours,
    plain_torch,
    torch_loss,
    torch_module,
    wait_for,
    with_jax,
    with_skorch,
)
from benchmarks.train import matrix_products
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection import FusedGridSearchCV

ROOT = Path(__file__).parents[1]
# scikit-learn dispatches arrays only if this was set when SciPy was imported
_DISPATCHES = {"SCIPY_ARRAY_API": "1"}
Data = tuple[np.ndarray, np.ndarray]


@dataclass
class Size:
    """Size of the benchmarks."""

    units: tuple[int, ...] = (784, 128, 64, 10)
    n_samples: int = 60_000
    batch_sizes: tuple[int, ...] = (200, 2_048, 16_384)
    epochs: tuple[int, int] = (10, 60)
    n_candidates: int = 100
    n_folds: int = 5
    search_rows: int = 10_000
    search_epochs: int = 10


FULL = Size()
# to try the script without a GPU
QUICK = Size((20, 8, 6, 3), 300, (50, 100), (2, 4), n_candidates=3, n_folds=2, search_rows=90)


@dataclass
class Part:
    """A part of the report: a table, or lines of text, and the figures behind it."""

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    text: str = ""
    figures: dict = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        if self.header:
            cells = [self.header, ["---"] * len(self.header), *self.rows]
            lines += ["| " + " | ".join(row) + " |" for row in cells]
        if self.text:
            lines += ["```text", self.text.rstrip(), "```"]
        return "\n".join([*lines, ""])


# --------------------------------------------------------------------------------------
# does it work?


def device_tests(size: Size, rounds: int) -> Part:
    """Run the tests that need a device."""
    on_a_device = [f"tests/hardware/test_{name}.py" for name in ("device", "arrays_on_device")]
    files = [*on_a_device, "tests/test_out_of_memory.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    return _of_process("Tests on the device", command, {"SKNN_DEEP_GPU": "1", **_DISPATCHES})


def sanitizer(size: Size, rounds: int) -> Part:
    """Fit each kind under torch's sanitizer, which finds data races between CUDA streams."""
    command = [sys.executable, "-c", "from benchmarks.gpu import fit_each_kind; fit_each_kind()"]
    watched = {"TORCH_CUDA_SANITIZER": "1", **_DISPATCHES}
    return _of_process("torch's CUDA sanitizer", command, watched)


def _of_process(title: str, command: list[str], environment: dict[str, str]) -> Part:
    """Run a command; return the end of its output, or raise an error with more of it."""
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    lines = (result.stdout + result.stderr).splitlines()
    if result.returncode:
        raise RuntimeError("\n".join([" ".join(command), *lines[-40:]]))
    return Part(title, text="\n".join(lines[-3:]) or "no complaint")


def fit_each_kind() -> None:
    """Fit small networks in every way that is implemented differently on a device."""
    rng = np.random.default_rng(0)
    X, Z = rng.uniform(size=(500, 20)).astype(np.float32), rng.normal(size=(500, 3))
    quick = {"hidden_layer_sizes": (16, 8), "max_iter": 4, "batch_size": 64, "device": "auto"}
    ways = [
        {},
        {"solver": "sgd"},
        {"solver": "adamw"},
        {"solver": "muon"},
        {"dropout": 0.2, "normalization": "batch"},
        {"normalization": "layer", "early_stopping": True},
        {"dtype": "bfloat16"},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for params in ways:
            DeepMLPClassifier(**quick, **params).fit(X, Z.argmax(axis=1)).predict(X)
            DeepMLPRegressor(**quick, **params).fit(X, Z).predict(X)
            AutoencoderTransformer(4, **quick, **params).fit(X).transform(X)
        AutoencoderTransformer(4, **quick, variational=True).fit(X)
        DeepMLPClassifier(**quick, n_networks=4).fit(X, Z.argmax(axis=1))
        with config_context(array_api_dispatch=True):
            rows = torch.from_numpy(X).cuda()
            AutoencoderTransformer(4, **quick).fit(rows).transform(rows)


# --------------------------------------------------------------------------------------
# how fast is it?


def random_rows(size: Size) -> Data:
    """Return random rows and labels, since the values do not affect the time."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(size.n_samples, size.units[0])).astype(np.float32)
    return X, rng.integers(0, size.units[-1], size.n_samples)


def compiled_torch(work: Work, X: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Return a run of the plain torch loop with a compiled module."""
    rows, labels = torch.from_numpy(X).to(work.device), torch.from_numpy(y).to(work.device)
    module, loss = torch.compile(torch_module(work)), torch_loss(work)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    # batches of one length, since another would cause a recompilation
    n_rows = len(X) // work.batch_size * work.batch_size

    def run() -> None:
        for _ in range(work.epochs):
            order = torch.randperm(len(X), device=work.device)[:n_rows]
            for batch in order.split(work.batch_size):
                optimizer.zero_grad()
                loss(module(rows[batch]), labels[batch]).backward()
                optimizer.step()

    return run


def products_alone(work: Work, X: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Return a run of the matrix products of the training and nothing else."""
    return matrix_products(work)


WAYS: dict[str, Callable[..., Callable[[], object]]] = {
    "sknn_deep": ours,
    "torch": plain_torch,
    "torch.compile": compiled_torch,
    "skorch": with_skorch,
    "matrix products alone": products_alone,
}
if find_spec("jax") is not None:
    WAYS["JAX"] = with_jax
# for a way so slow that few epochs suffice
_FEW_EPOCHS = {"skorch": (1, 3)}


def seconds_of_epoch(way: Callable, work: Work, data: Data, epochs: tuple[int, int]) -> float:
    """Return the time of an additional epoch in seconds."""
    seconds = []
    for n_epochs in epochs:
        run = way(replace(work, epochs=n_epochs), *data)
        start = time.perf_counter()
        run()
        wait_for(work.device)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (epochs[1] - epochs[0])


def _time_batches(
    part: Part, name: str, way: Callable, size: Size, rounds: int, epochs: tuple[int, int]
) -> None:
    """Add a row to a table: the time of an epoch for each size of batches."""
    data, cells = random_rows(size), []
    for batch_size in size.batch_sizes:
        work = Work(size.units, batch_size, 1, n_samples=size.n_samples, device="cuda")
        try:
            measured = [seconds_of_epoch(way, work, data, epochs) for _ in range(rounds)]
        except Exception as error:  # such as a missing compiler
            cells.append(f"failed: {next(iter(str(error).splitlines()), type(error).__name__)}")
            continue
        part.figures[f"{name}, batch {batch_size}"] = measured
        cells.append(f"{np.median(measured) * 1e3:.3g} ms")
    part.rows.append([name, *cells])


def training(size: Size, rounds: int) -> Part:
    """Time an epoch of each way to train."""
    part = Part("An epoch of training", ["way", *(f"batch {n:,}" for n in size.batch_sizes)])
    for name, way in WAYS.items():
        _time_batches(part, name, way, size, rounds, _FEW_EPOCHS.get(name, size.epochs))
    return part


def precision(size: Size, rounds: int) -> Part:
    """Time an epoch with products in each type."""
    part = Part("An epoch by type", ["products", *(f"batch {n:,}" for n in size.batch_sizes)])
    for name, params in (
        ("float32", {"float32_precision": "highest"}),
        ("TF32", {"float32_precision": "high"}),
        ("bfloat16", {"dtype": "bfloat16"}),
    ):
        _time_batches(part, name, partial(_ours_in, params), size, rounds, size.epochs)
    return part


def _ours_in(params: dict, work: Work, X: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    classifier = DeepMLPClassifier(
        work.units[1:-1],
        batch_size=work.batch_size,
        max_iter=work.epochs,
        n_iter_no_change=np.inf,
        device=work.device,
        **params,
    )
    return lambda: classifier.fit(X, y)


def search(size: Size, rounds: int) -> Part:
    """Time a fused search beside one fit of it."""
    X, y = (rows[: size.search_rows] for rows in random_rows(size))
    classifier = DeepMLPClassifier(
        size.units[1:-1],
        batch_size=min(512, len(X) // 2),
        max_iter=size.search_epochs,
        n_iter_no_change=np.inf,
        device="cuda",
        random_state=0,
    )
    grid = {"alpha": list(np.logspace(-5, 0, size.n_candidates))}
    runs = {
        "one fit": lambda: classifier.fit(X, y),
        "the search": FusedGridSearchCV(classifier, grid, cv=size.n_folds, refit=False).fit,
    }
    runs["the search"] = partial(runs["the search"], X, y)
    seconds = harness.alternate({name: harness.timed(run) for name, run in runs.items()}, rounds)
    rows = [[name, harness.duration(values)] for name, values in seconds.items()]
    times = np.median(seconds["the search"]) / np.median(seconds["one fit"])
    rows.append(["the search, in fits", f"{times:.3g}"])
    title = f"A search of {size.n_candidates * size.n_folds} fits"
    return Part(title, ["", "time"], rows, figures=seconds)


def predictions(size: Size, rounds: int) -> Part:
    """Time predictions of few and of many rows."""
    X, y = random_rows(size)
    classifier = DeepMLPClassifier(size.units[1:-1], max_iter=1, device="cuda").fit(X, y)
    part = Part("Predictions", ["rows", "time"])
    for n_rows in (1, len(X) // 60, len(X)):
        run = harness.repeated(partial(classifier.predict_proba, X[:n_rows]))
        part.figures[str(n_rows)] = [run() for _ in range(rounds)]
        part.rows.append([f"{n_rows:,}", harness.duration(part.figures[str(n_rows)])])
    return part


# --------------------------------------------------------------------------------------
# what does it take?


def memory(size: Size, rounds: int) -> Part:
    """Measure the peak memory of a fit, and what it leaves allocated."""
    X, y = random_rows(size)
    part = Part("Memory of a fit", ["batch", "at the peak", "afterwards"])
    for batch_size in size.batch_sizes:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        classifier = DeepMLPClassifier(
            size.units[1:-1], batch_size=batch_size, max_iter=3, device="cuda"
        ).fit(X, y)
        peak, after = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        del classifier
        taken = {"peak": peak - before, "after": after - before}
        part.figures[str(batch_size)] = taken
        part.rows.append([f"{batch_size:,}", *(f"{n / 2**20:.3g} MiB" for n in taken.values())])
    return part


def profile(size: Size, rounds: int) -> Part:
    """List what takes most of a fit's time: kernels of the device, if torch can record them."""
    X, y = random_rows(size)
    classifier = DeepMLPClassifier(
        size.units[1:-1], batch_size=size.batch_sizes[0], max_iter=5, device="cuda"
    )
    classifier.fit(X, y)
    with torch.profiler.profile() as recorded:  # of everything that this build of torch can record
        classifier.fit(X, y)
    events = recorded.key_averages()
    on_device = any(event.self_device_time_total for event in events)

    def microseconds(event) -> float:
        return event.self_device_time_total if on_device else event.self_cpu_time_total

    largest = sorted(events, key=microseconds, reverse=True)[:10]
    rows = [
        [
            event.key[:60].replace("|", "/"),
            f"{microseconds(event) / 1e3:.3g} ms",
            f"{event.count:,}",
        ]
        for event in largest
    ]
    where = "the device" if on_device else "the host"
    return Part("Where the time goes", [f"on {where}", "time", "calls"], rows)


# --------------------------------------------------------------------------------------


PARTS: dict[str, Callable[[Size, int], Part]] = {
    "tests": device_tests,
    "sanitizer": sanitizer,
    "training": training,
    "precision": precision,
    "search": search,
    "predictions": predictions,
    "memory": memory,
    "profile": profile,
}


def report(names: Iterable[str], size: Size, rounds: int, deadline: float) -> list[Part]:
    """Return the parts of a report; no part is started after the deadline."""
    parts = []
    for name in names:
        start = time.perf_counter()
        if start > deadline:
            part = Part(name, text="left out: the time is over, see --minutes")
        else:
            try:
                part = PARTS[name](size, rounds)
            except Exception as error:
                reason = f"{error}\n{traceback.format_exc(limit=-3)}"
                part = Part(f"{name} failed", text=reason, figures={"error": str(error)})
        part.figures["seconds of this part"] = time.perf_counter() - start
        print(part.markdown(), flush=True)
        parts.append(part)
    return parts


def main(arguments: list[str] | None = None) -> int:
    """Make the report; return 1 if a part failed."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--output", type=Path, default=Path("gpu"), help="folder of the report")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--rounds", type=int, default=3, help="how often each figure is taken")
    options.add_argument("--minutes", type=float, default=8.0, help="begin no part after that")
    options.add_argument("--quick", action="store_true", help="small works, to try this out")
    chosen = options.parse_args(arguments)
    if not torch.cuda.is_available():
        options.error("torch finds no CUDA device here")
    machine = harness.machine(GPU=torch.cuda.get_device_name(), CUDA=str(torch.version.cuda))
    heading = ", ".join(f"{key} {value}" for key, value in machine.items())
    print(heading, end="\n\n", flush=True)
    deadline = time.perf_counter() + 60 * chosen.minutes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts = report(chosen.parts, QUICK if chosen.quick else FULL, chosen.rounds, deadline)
    chosen.output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["# On a GPU", "", heading, "", *(part.markdown() for part in parts)])
    (chosen.output / "report.md").write_text(text, encoding="utf-8")
    figures = {"machine": machine} | {part.title: part.figures for part in parts}
    (chosen.output / "report.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return int(any("error" in part.figures for part in parts))


if __name__ == "__main__":
    sys.exit(main())
