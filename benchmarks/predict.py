"""Prediction time of 784-128-64-10 against the others: ``python -m benchmarks.predict``.

All contenders have the same weights, and a figure is one call with an array of that many images,
repeated if it is short. "torch" is the code a user would write, in inference mode, from array to
array. ``transform`` is the encoder of an autoencoder with a 32-unit code, which scikit-learn and
skorch do not offer. The floor is the time of the layers' matrix products alone, into buffers, 1,000
rows at a time. On one thread CPU time is measured, which other processes do not lengthen.

The second table times calls after a pause, when threads sleep and caches hold other data, and
immediately after a NumPy product, whose threads are still spinning. The last table simulates a
server: sixteen threads query one model, ours loaded from its file, for the class of one row after
the other; wall-clock times show how long each request waits, and how many are answered per second
in total.
"""

import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from benchmarks import harness
from benchmarks.compare import compare
from benchmarks.contenders import Work, skorch_net, torch_module, torch_outputs
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, load, save

ROWS = (1, 100, 10_000)
CLIENTS, REQUESTS = 16, 200
# Rows per product of the floor, so that outputs fit in the cache.
BLOCK = 1000
# Before each call of the second table: seconds of a pause, or size of a product.
PAUSE, SIDE, CALLS = 0.05, 1000, 20
CLASSIFIER = Work((784, 128, 64, 10), batch_size=200, epochs=1, n_samples=2000)
IN_DOUBLE = replace(CLASSIFIER, dtype="float64")
ENCODER = Work((784, 128, 64, 32), batch_size=200, epochs=1)
WORKS = {
    "predict": CLASSIFIER,
    "predict_proba": CLASSIFIER,
    "transform": ENCODER,
    "predict_proba, float64": IN_DOUBLE,
}


def all_calls() -> dict[str, tuple[np.ndarray, dict[str, Callable]]]:
    """Return, for each method, rows to predict and the contenders' functions."""
    found = {}
    for work in (CLASSIFIER, IN_DOUBLE):
        data = work.data()
        ours = DeepMLPClassifier((128, 64), max_iter=1, device="cpu").fit(data.X, data.y)
        for method, contenders in calls(work, ours, data.X, data.y).items():
            name = method if work is CLASSIFIER else f"{method}, {work.dtype}"
            found[name] = data.X_test, contenders
    assert found.keys() == WORKS.keys()
    return found


def calls(work: Work, ours, X, y) -> dict[str, dict[str, Callable]]:
    """Return, for each method, the contenders' functions of the rows; trained on a few rows."""
    weights = [*zip(ours.coefs_, ours.intercepts_, strict=True)]
    sklearn_mlp = MLPClassifier((128, 64), max_iter=1).fit(X, y)
    sklearn_weights = zip(sklearn_mlp.coefs_, sklearn_mlp.intercepts_, strict=True)
    for own, given in zip(sklearn_weights, weights, strict=True):
        for own_array, given_array in zip(own, given, strict=True):
            own_array[...] = given_array
    module = torch_with_weights_of(ours.module_, work)
    net = skorch_net(work).initialize()
    net.module_.load_state_dict(module.state_dict())
    probabilities = {
        "sknn_deep": ours.predict_proba,
        "scikit-learn": sklearn_mlp.predict_proba,
        "skorch": net.predict_proba,
        "torch": lambda rows: torch_outputs(module, rows).softmax(1).numpy(),
    }
    if work is IN_DOUBLE:
        return {"predict_proba": probabilities}

    autoencoder = AutoencoderTransformer(32, (128, 64), max_iter=1, device="cpu").fit(X)
    encoder = torch_with_weights_of(autoencoder.encoder_, ENCODER)
    return {
        "predict": {
            "sknn_deep": ours.predict,
            "scikit-learn": sklearn_mlp.predict,
            "skorch": net.predict,
            "torch": lambda rows: torch_outputs(module, rows).argmax(1).numpy(),
        },
        "predict_proba": probabilities,
        "transform": {
            "sknn_deep": autoencoder.transform,
            "torch": lambda rows: torch_outputs(encoder, rows).numpy(),
        },
    }


def own_rows() -> dict[str, Callable[[], Callable[[], float]]]:
    """Return for each call a function that prepares its measurement for sknn_deep alone."""
    return {
        f"{method}, {n_rows:,}": partial(
            harness.repeated, partial(contenders["sknn_deep"], X[:n_rows])
        )
        for method, (X, contenders) in all_calls().items()
        for n_rows in ROWS
    }


def torch_with_weights_of(fitted: torch.nn.Module, work: Work) -> torch.nn.Module:
    """Return a plain torch module with the weights of one of our networks."""
    module = torch_module(work).eval()
    with torch.no_grad():
        for own, given in zip(module.parameters(), fitted.parameters(), strict=True):
            own.copy_(given)
    return module


def check_same(X: np.ndarray, contenders: dict[str, Callable]) -> None:
    """Raise an error if two contenders' results differ."""
    expected = contenders["torch"](X)
    for predict in contenders.values():
        np.testing.assert_allclose(predict(X), expected, rtol=1e-3, atol=1e-5)


def matrix_products(work: Work, n_rows: int) -> Callable[[], None]:
    """Return a run of the matrix products of a prediction and nothing else."""
    rand = partial(torch.rand, dtype=getattr(torch, work.dtype))
    weights = [rand(n_out, n_in) for n_in, n_out in pairwise(work.units)]
    rows = rand(n_rows, work.units[0])
    outputs = [rand(min(n_rows, BLOCK), n_units) for n_units in work.units[1:]]

    def run() -> None:
        for block in rows.split(BLOCK):
            for weight, output in zip(weights, outputs, strict=True):
                block = torch.mm(block, weight.t(), out=output[: len(block)])

    return run


def after(prepare: Callable[[], object], predict: Callable[[], object]) -> Callable[[], float]:
    """Return a contender that returns the time of a call right after a preparation."""

    def measure() -> float:
        seconds = 0.0
        for _ in range(CALLS):
            prepare()
            start = time.perf_counter()
            predict()
            seconds += time.perf_counter() - start
        return seconds / CALLS

    return measure


def waits(predict: Callable, rows: np.ndarray) -> np.ndarray:
    """Return how long each request of many clients waits, in seconds.

    All clients start together, and a request begins when the client's previous one is answered:
    waiting for the interpreter before the call counts, too.
    """
    begin: list[float] = []
    together = threading.Barrier(CLIENTS, action=lambda: begin.append(time.perf_counter()))

    def client(number: int) -> np.ndarray:
        together.wait()
        answered = [begin[0]]
        for request in range(REQUESTS):
            predict(rows[(number + request) % len(rows)][np.newaxis])
            answered.append(time.perf_counter())
        return np.diff(answered)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return np.concatenate(list(pool.map(client, range(CLIENTS))))


def print_waits(contenders: dict[str, Callable], rows: np.ndarray) -> None:
    """Print how long clients wait for a loaded model of ours, and how many answers they get."""
    path = Path(tempfile.mkdtemp(), "classifier.skops")
    save(contenders["sknn_deep"].__self__, path)
    contenders = {**contenders, "sknn_deep": load(path).predict_proba}
    table = []
    for name, predict in contenders.items():
        waits(predict, rows)
        start = time.perf_counter()
        seconds = waits(predict, rows)
        rate = len(seconds) / (time.perf_counter() - start)
        times = [harness.duration([q]) for q in np.quantile(seconds, [0.5, 0.99, 1.0])]
        table.append([name, *times, harness.duration([seconds.mean()]), f"{rate:,.0f}"])
    header = [f"predict_proba, {CLIENTS} threads", "median", "99 %", "longest", "mean"]
    header.append("answers a second")
    harness.print_table(header, table)


def figures(seconds: dict[str, list[float]], others: list[str]) -> list[str]:
    """Return our time, and how many times longer the others take."""
    ratios = [harness.ratio(seconds, name) if name in seconds else "–" for name in others]
    return [harness.duration(seconds["sknn_deep"]), *ratios]


def main():
    """Time every method for every number of rows and print the ratios."""
    arguments = harness.parser(__doc__, compares=True).parse_args()
    if arguments.compare:
        compare("predict", arguments.compare, arguments)
        return
    warnings.simplefilter("ignore", ConvergenceWarning)
    methods = all_calls()
    for X, contenders in methods.values():
        check_same(X[:100], contenders)

    others = ["scikit-learn", "skorch", "torch", "floor"]
    rows, rows_after, results = [], [], {}
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    with harness.conditions(arguments):
        for method, (images, contenders) in methods.items():
            for n_rows in ROWS:
                X = images[:n_rows]
                runs = {
                    name: harness.repeated(lambda predict=predict, X=X: predict(X), clock)
                    for name, predict in contenders.items()
                }
                work = WORKS[method]
                runs["floor"] = harness.repeated(matrix_products(work, n_rows), clock)
                seconds = harness.alternate(runs, arguments.rounds)
                results[f"{method}, {n_rows}"] = seconds
                rows.append([method, f"{n_rows:,}", *figures(seconds, others)])
        left, right = np.random.default_rng(0).random((2, SIDE, SIDE), np.float32)
        before = {
            f"a pause of {PAUSE * 1000:.0f} ms": partial(time.sleep, PAUSE),
            "a product of NumPy's": lambda: left @ right,
        }
        images, contenders = methods["predict_proba"]
        for event, prepare in before.items():
            for n_rows in ROWS:
                runs = {
                    name: after(prepare, partial(predict, images[:n_rows]))
                    for name, predict in contenders.items()
                }
                seconds = harness.alternate(runs, arguments.rounds)
                results[f"predict_proba after {event}, {n_rows}"] = seconds
                rows_after.append([event, f"{n_rows:,}", *figures(seconds, others[:-1])])
        harness.print_machine(**{"busy neighbours": str(arguments.neighbours)})
    ratios = [f"{name} / ours" for name in others]
    harness.print_table(["call", "rows", "our time", *ratios], rows)
    header = ["predict_proba after", "rows", "our time", *ratios[:-1]]
    harness.print_table(header, rows_after)
    with harness.conditions(arguments):
        print_waits(contenders, images[:100])
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
