"""Paired timing: contenders alternate in one run, figures are medians of ratios.

A shared machine drifts by more than the differences of interest, so absolute seconds from
different runs do not compare. Within a run each round times every contender once, in
turn, and a ratio is the median of the rounds' ratios, with their quartiles.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import skorch
import torch
from threadpoolctl import threadpool_limits

# After this pause, the spinning threads of the previous contender's BLAS library are asleep.
SECONDS_BETWEEN = 0.1


def alternate(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list]:
    """Return each contender's result in each round, after a warm-up round that is not counted.

    Contenders measure themselves and return the figure: see ``timed`` and ``repeated``.
    """
    answers: dict[str, list] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            time.sleep(SECONDS_BETWEEN)
            answer = measure()
            if number > 0:
                answers[name].append(answer)
    return answers


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Return a contender that calls ``run`` once and returns its time in seconds."""

    def measure() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return measure


def repeated(
    run: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """Return a contender that returns the time of a call in seconds, averaged over many calls.

    For calls too short to time individually: a measurement takes about a fifth of a second.
    """
    timer = timeit.Timer(run, timer=clock)
    n_calls, _ = timer.autorange()
    return lambda: timer.timeit(n_calls) / n_calls


def ratio(seconds: dict[str, list[float]], other: str, ours: str = "sknn_deep") -> str:
    """Return how many times longer another contender takes, with quartiles over the rounds."""
    by_round = np.array(seconds[other]) / np.array(seconds[ours])
    low, middle, high = np.quantile(by_round, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def duration(seconds: list[float]) -> str:
    """Return the median in a suitable unit."""
    middle = np.median(seconds)
    units = [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)]
    unit, size = next((each for each in units if middle >= each[1]), units[-1])
    return f"{middle / size:.3g} {unit}"


def on_one_thread(measure: Callable[[], float]) -> Callable[[], float]:
    """Return a contender that measures itself on one thread."""

    def measure_it() -> float:
        with limited_threads(1):
            return measure()

    return measure_it


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Limit torch and NumPy's libraries to this many threads within a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with threadpool_limits(n_threads):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def busy_neighbours(number: int) -> Iterator[None]:
    """Keep this many cores busy with other processes within a block."""
    processes = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def conditions(arguments: Any, n_threads: int | None = None) -> Iterator[None]:
    """Apply ``--threads`` (or another number) and ``--neighbours`` within a block."""
    number = arguments.threads if n_threads is None else n_threads
    with limited_threads(number), busy_neighbours(arguments.neighbours):
        yield


def machine(**more: str) -> dict[str, str]:
    """Return a description of the machine."""
    return {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch": torch.__version__,
        "torch threads": str(torch.get_num_threads()),
        "scikit-learn": sklearn.__version__,
        "skorch": skorch.__version__,
        "numpy": np.__version__,
        **more,
    }


def print_machine(**more: str) -> None:
    """Print the description of the machine above the tables."""
    print(", ".join(f"{key} {value}" for key, value in machine(**more).items()))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print an empty line and a Markdown table."""
    print()
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |", flush=True)


def parser(description: str, rounds: int = 7, *, compares: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share.

    With ``compares`` also ``--compare``, and ``--neighbours`` for :func:`busy_neighbours`.
    """
    options = argparse.ArgumentParser(description=description.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=rounds, help="counted rounds")
    options.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="threads for every contender (default: torch's own choice)",
    )
    options.add_argument("--json", type=Path, help="also write all figures to this file")
    if compares:
        options.add_argument(
            "--compare",
            metavar="CHECKOUT",
            type=Path,
            help="time sknn_deep alone, this version and that of another checkout in turn",
        )
        options.add_argument(
            "--neighbours",
            type=int,
            default=0,
            help="other processes that keep a core busy each; default: 0",
        )
    return options


def save(path: Path | None, results: dict, **more: str) -> None:
    """Write all figures as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(**more), **results}, indent=1))
