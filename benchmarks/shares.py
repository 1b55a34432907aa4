"""Where the time of a training goes: ``python -m benchmarks.shares``.

For the tasks of ``benchmarks.train`` and ``benchmarks.search`` (the latter in one process), the
table shows the share of a whole ``fit`` spent on the matrix products, the other kernels of the
steps, the optimiser, gathering rows, and everything else: validation, per-epoch overhead, scoring.
The remaining columns compare with scikit-learn's classifier or regressor: the actual ratio, and the
ratio if everything but our products took no time, which is the limit for any improvement outside
the products. The products are timed within the training, call by call, where the data of a step
compete for the cache; timing adds about a quarter of a microsecond per call, which is attributed to
the surrounding code.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness, search, train
from benchmarks.contenders import ours, scikit_learn
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.engine import Engine
from sknn_deep._engine.optimizers import Adam
from sknn_deep._hardware.products import LayerProducts
from sknn_deep._training.stack import Stack

PARTS = ["products", "other kernels", "optimiser", "gathering", "the rest"]
Seconds = Counter[str]


def timed(seconds: Seconds, name: str, function: Callable) -> Callable:
    """Return a function that also adds its time to that of a part."""

    def run(*args):
        start = time.perf_counter()
        answer = function(*args)
        seconds[name] += time.perf_counter() - start
        return answer

    return run


@contextmanager
def watched(seconds: Seconds) -> Iterator[None]:
    """Sum the times of the parts of each training within a block."""

    def result_timed(name: str, build: Callable) -> Callable:
        return lambda *args, **kwargs: timed(seconds, name, build(*args, **kwargs))

    with ExitStack() as stack:
        for owner, name, wrapper in (
            (LayerProducts, "_by_numpy", result_timed("products", LayerProducts._by_numpy)),
            (LayerProducts, "_by_torch", result_timed("products", LayerProducts._by_torch)),
            (Adam, "kernel_for", result_timed("optimiser", Adam.kernel_for)),
            (Batches, "fill", timed(seconds, "gathering", Batches.fill)),
            (Engine, "plain_steps", timed(seconds, "steps", Engine.plain_steps)),
            (Stack, "_take_steps", timed(seconds, "steps", Stack._take_steps)),
        ):
            stack.enter_context(mock.patch.object(owner, name, wrapper))
        yield


def shares_of(run: Callable[[], object]) -> Callable[[], Seconds]:
    """Return a contender that returns the time of each part."""

    def measure() -> Seconds:
        seconds: Seconds = Counter()
        start = time.perf_counter()
        with watched(seconds):
            run()
        whole = time.perf_counter() - start
        steps = seconds.pop("steps")
        seconds["other kernels"] = steps - seconds["products"] - seconds["optimiser"]
        seconds["the rest"] = whole - steps - seconds["gathering"]
        return seconds

    return measure


def trainings(key: str) -> tuple[str, dict[str, Callable]]:
    """Return the title of a task of ``benchmarks.train``, and the contenders."""
    work = train.WORKS[key]
    data = work.data()
    X, y = data.X, data.y
    return f"fit: {work}", {"ours": ours(work, X, y), "scikit-learn": scikit_learn(work, X, y)}


def searches(key: str) -> tuple[str, dict[str, Callable]]:
    """Return the title of a task of ``benchmarks.search``, and the contenders, in this process."""
    work = search.WORKS[key]
    X, y = work.data()
    found = search.searches(work, n_jobs=1)
    names = {"ours": "sknn_deep", "scikit-learn": "MLPClassifier"}
    runs = {name: lambda other=other: found[other].fit(X, y) for name, other in names.items()}
    return f"search: {work}", runs


def row(title: str, answers: dict[str, list[Any]], n_threads: int) -> list[str]:
    """Return a row of the table."""
    parts = {part: np.median([seconds[part] for seconds in answers["ours"]]) for part in PARTS}
    whole = np.median([sum(seconds.values()) for seconds in answers["ours"]])
    theirs = np.median(answers["scikit-learn"])
    percents = [f"{100 * parts[part] / sum(parts.values()):.0f} %" for part in PARTS]
    ratios = [f"{theirs / whole:.2f}", f"{theirs / parts['products']:.2f}"]
    return [title, f"{n_threads}", *percents, *ratios]


def main():
    """Time every work and print the shares."""
    options = harness.parser(__doc__, rounds=3)
    plain = [key for key, work in train.WORKS.items() if not work.options]
    known = [f"fit-{key}" for key in plain] + [f"search-{key}" for key in search.WORKS]
    options.add_argument("works", nargs="*", help=f"among {known}; default: all")
    arguments = options.parse_args()
    if unknown := set(arguments.works) - set(known):
        options.error(f"there is no {sorted(unknown)}; choose from {known}.")
    warnings.simplefilter("ignore", ConvergenceWarning)
    np.random.seed(0)
    torch.manual_seed(0)

    rows, results = [], {}
    for name in arguments.works or known:
        kind, _, key = name.partition("-")
        title, runs = {"fit": trainings, "search": searches}[kind](key)
        # the networks of a search are trained on one thread, as in each of its processes
        n_threads = train.threads(train.WORKS[key], arguments) if kind == "fit" else 1
        with harness.limited_threads(n_threads):
            results[name] = harness.alternate(
                {"ours": shares_of(runs["ours"])}
                | {"scikit-learn": harness.timed(runs["scikit-learn"])},
                arguments.rounds,
            )
        rows.append(row(title, results[name], n_threads))
    harness.print_machine()
    header = ["work", "threads", *PARTS, "scikit-learn / ours", "scikit-learn / our products"]
    harness.print_table(header, rows)
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
