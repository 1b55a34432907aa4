"""Training time against scikit-learn, skorch, torch and Keras: ``python -m benchmarks.train``.

All contenders train the same architecture with Adam at 0.001 from Glorot's uniform initial
weights, in the same type, on the same data, batch size, number of epochs and threads, and the
second table shows the quality of each trained network. Two differences remain: scikit-learn's
estimators and ours add their default L2 penalty, and for two classes they have one logistic output
where the others have two.

A figure is a whole call of ``fit``. Keras compiles in the uncounted warm-up round and resets its
weights outside the measured time; see ``benchmarks/keras_worker.py``. The floor is the time of the
matrix products alone: three for each layer and batch (two for the first, whose input needs no
gradient), into buffers, with nothing between them. For sparse rows, SciPy computes those of the
first layer. In the bfloat16 rows, torch uses its autocast; all others, and the floor, are in
float32.

The tabular rows are the defaults of ``TabularMLPRegressor`` and ``TabularMLPClassifier``, four
networks, beside their floor, which includes the gradient for the embeddings and the products of
Muon's iterations; ``benchmarks.tables`` has their contenders.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness, keras_worker
from benchmarks.compare import compare
from benchmarks.contenders import Data, Work, in_process, ours, tabular, wait_for
from sknn_deep._engine.muon import step_dtype

MNIST = (784, 128, 64, 10)
WORKS = {
    "tiny": Work((10, 32, 2), 32, 10, n_samples=2000, one_thread=True),
    "small": Work((8, 64, 64, 3), 200, 20, n_samples=8000, one_thread=True),
    "digits": Work((64, 100, 10), 200, 40, n_samples=1797, one_thread=True),
    "mnist-200": Work(MNIST, 200, 1),
    "mnist-2048": Work(MNIST, 2048, 2),
    "mnist-200-bfloat16": Work(MNIST, 200, 1, rounds_to="bfloat16"),
    "mnist-2048-bfloat16": Work(MNIST, 2048, 2, rounds_to="bfloat16"),
    "wide-2048": Work((784, 512, 512, 10), 2048, 1),
    "wide-2048-bfloat16": Work((784, 512, 512, 10), 2048, 1, rounds_to="bfloat16"),
    "wider-2048": Work((784, 1024, 1024, 10), 2048, 1, n_samples=20_000),
    "wider-2048-bfloat16": Work(
        (784, 1024, 1024, 10), 2048, 1, n_samples=20_000, rounds_to="bfloat16"
    ),
    "mnist-float64": Work(MNIST, 200, 1, "float64"),
    "mnist-regularised": Work(MNIST, 256, 1, options=("dropout 0.2", "batch norm")),
    "autoencoder": Work((784, 128, 64, 32, 64, 128, 784), 256, 1, n_samples=20000),
    "sparse-20000": Work((20_000, 100, 2), 200, 2, "float64", 2000, numbers_in_a_row=100),
    "sparse-50000": Work((50_000, 100, 2), 200, 2, "float64", 5000, numbers_in_a_row=60),
    "texts": Work((130_000, 100, 20), 200, 1, n_samples=11_314, numbers_in_a_row=160),
    "classes-2000": Work((50, 64, 2000), 200, 4, n_samples=4000),
    "classes-10000": Work((50, 64, 10_000), 200, 1, n_samples=10_000),
    "targets-500": Work((50, 64, 500), 200, 4, n_samples=4000, has_targets=True),
    "tabular-regressor": Work((8, 1), 128, 4, n_samples=8000, has_targets=True, is_tabular=True),
    "tabular-classifier": Work((8, 2), 128, 4, n_samples=8000, is_tabular=True),
}
CONTENDERS = ["scikit-learn", "skorch", "torch"]  # beside sknn_deep
CONTENDERS += [f"keras-{backend}" for backend in keras_worker.BACKENDS] + ["floor"]


def judged(work: Work, data: Data, run: Callable) -> Callable[[], tuple[float, float]]:
    """Return a contender that trains and returns its time and its quality."""

    def measure() -> tuple[float, float]:
        start = time.perf_counter()
        predict = run()
        seconds = time.perf_counter() - start
        return seconds, work.quality(predict, data)

    return measure


def floor(work: Work) -> Callable[[], None]:
    """Return a run of the matrix products of the training and nothing else."""
    if not work.is_tabular:
        return matrix_products(work)
    data = work.data()
    fitted = tabular(replace(work, epochs=1)).fit(data.X, data.y)
    n_rows = int(work.n_samples * (1 - fitted.validation_fraction))
    n_steps = work.epochs * -(-n_rows // work.batch_size)
    runs = []
    for network in fitted.estimators_:
        weights = network.coefs_
        units = (*(len(weight) for weight in weights), weights[-1].shape[1])
        runs.append(matrix_products(replace(work, units=units, n_samples=n_rows)))
        runs += [orthogonalisation(weight.shape, n_steps) for weight in weights[:-1]]

    def run():
        for products in runs:
            products()

    return run


def orthogonalisation(shape: tuple[int, int], n_steps: int) -> Callable[[], None]:
    """Return a run of the products of Muon's five iterations for a matrix."""
    low, high = sorted(shape)
    dtype = step_dtype(torch.device("cpu"))
    matrix, result = (torch.rand(low, high, dtype=dtype) for _ in range(2))
    gram, square = (torch.empty(low, low, dtype=dtype) for _ in range(2))

    def run():
        for _ in range(5 * n_steps):
            torch.mm(matrix, matrix.T, out=gram)
            torch.mm(gram, gram, out=square)
            torch.mm(square, matrix, out=result)

    return run


def matrix_products(work: Work) -> Callable[[], None]:
    """Return a run of the matrix products of all batches."""
    rand = partial(torch.rand, dtype=getattr(torch, work.dtype), device=work.device)
    rows = work.batch_size
    shapes = list(pairwise(work.units))
    activations = [rand(rows, n) for n in work.units]
    deltas = [rand(rows, n) for n in work.units]
    weights = [rand(n_out, n_in) for n_in, n_out in shapes]
    gradients = [torch.empty_like(weight) for weight in weights]

    sparse = None
    if work.numbers_in_a_row is not None:
        sparse = work.data().X[:rows]
        first, delta = weights[0].t().contiguous().numpy(), deltas[1].numpy()

    def run():
        for _ in range(work.epochs * -(-work.n_samples // rows)):
            for i, weight in enumerate(weights):
                if i == 0 and sparse is not None:
                    sparse @ first
                else:
                    torch.mm(activations[i], weight.t(), out=activations[i + 1])
            for i in reversed(range(len(weights))):
                if i == 0 and sparse is not None:
                    sparse.T @ delta
                else:
                    torch.mm(deltas[i + 1].t(), activations[i], out=gradients[i])
                if i > 0 or work.is_tabular:  # its input is learned
                    torch.mm(deltas[i + 1], weights[i], out=deltas[i])
            for activation in activations[1:]:
                activation.fill_(0.5)  # keep the products from growing without bound
        wait_for(work.device)

    return run


def measure(work: Work, names: list[str], arguments) -> dict[str, dict[str, list]]:
    """Return the time and the quality of each contender in each round."""
    work, data = replace(work, device=arguments.device), work.data()
    runs = {
        name: judged(work, data, contender(work, data.X, data.y))
        for name, contender in in_process(work).items()
        if name in names
    }
    if "floor" in names:
        products = harness.timed(floor(work))
        runs["floor"] = lambda: (products(), None)
    n_threads = threads(work, arguments)
    with (
        harness.conditions(arguments, n_threads),
        keras_worker.contenders(
            arguments.keras_python,
            [name for name in names if name.startswith("keras-") and work.suits_keras],
            work,
            data,
            n_threads,
        ) as keras_runs,
    ):
        answers = harness.alternate(runs | keras_runs, arguments.rounds)
    return {
        name: dict(zip(("seconds", "quality"), zip(*rounds, strict=True), strict=True))
        for name, rounds in answers.items()
    }


def own_rows() -> dict[str, Callable[[], Callable[[], float]]]:
    """Return for each task a function that prepares its measurement for sknn_deep alone."""

    def prepared(work: Work) -> Callable[[], float]:
        data = work.data()
        measure = harness.timed(ours(work, data.X, data.y))
        return harness.on_one_thread(measure) if work.one_thread else measure

    return {name: partial(prepared, work) for name, work in WORKS.items()}


def threads(work: Work, arguments) -> int:
    """Return how many threads every contender gets."""
    return 1 if work.one_thread else arguments.threads


def print_tables(results: dict, names: list[str], arguments) -> None:
    """Print the time of each contender, and the quality of its networks."""
    others = [name for name in names if name != "sknn_deep"]
    networks = [name for name in names if name != "floor"]
    times, qualities = [], []
    for key, result in results.items():
        work = WORKS[key]
        seconds = {name: figures["seconds"] for name, figures in result.items()}
        own = np.median(seconds["sknn_deep"]) / work.epochs
        ratios = [harness.ratio(seconds, name) if name in result else "–" for name in others]
        times.append([str(work), f"{threads(work, arguments)}", f"{own:.3f}", *ratios])
        means = [
            f"{np.mean(result[name]['quality']):.4f}" if name in result else "–"
            for name in networks
        ]
        qualities.append([str(work), work.measure, *means])
    header = ["work", "threads", "our seconds per epoch", *(f"{name} / ours" for name in others)]
    harness.print_table(header, times)
    harness.print_table(["work", "quality (mean over the rounds)", *networks], qualities)


def main():
    """Time every work and print the ratios."""
    options = harness.parser(__doc__, compares=True)
    options.add_argument("works", nargs="*", help=f"among {list(WORKS)}; default: all")
    options.add_argument(
        "--device", default="cpu", help="for all but scikit-learn and Keras; default: cpu"
    )
    options.add_argument(
        "--only",
        metavar="NAME,...",
        default=",".join(CONTENDERS),
        help="contenders beside sknn_deep; default: %(default)s, as far as installed",
    )
    options.add_argument(
        "--keras-python",
        metavar="PATH",
        type=Path,
        default=sys.executable,
        help="a Python that has Keras and its backends; default: the one that runs",
    )
    arguments = options.parse_args()
    if arguments.compare:
        compare("train", arguments.compare, arguments, only=arguments.works)
        return
    versions = keras_worker.installed(arguments.keras_python)
    names = ["sknn_deep"]
    for name in CONTENDERS:
        if name in arguments.only.split(",") and (name in versions or "keras" not in name):
            names.append(name)
    warnings.simplefilter("ignore", ConvergenceWarning)
    # all contenders draw new weights from the global states in each round
    np.random.seed(0)
    torch.manual_seed(0)

    results = {work: measure(WORKS[work], names, arguments) for work in arguments.works or WORKS}
    conditions = versions | {"busy neighbours": str(arguments.neighbours)}
    harness.print_machine(**conditions)
    print_tables(results, names, arguments)
    harness.save(arguments.json, results, **conditions)


if __name__ == "__main__":
    main()
