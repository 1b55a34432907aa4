"""Keras as a contender: a process for each backend, which Keras chooses once and for all.

The process loads the task, compiles its model and waits on a pipe. For each line it trains from the
initial weights and returns time and quality; while others run, it is idle. It needs only Keras and
a backend, so it can run in its own environment.

Threads are limited by environment variables, which each backend reads as it starts:
``OMP_NUM_THREADS`` (torch), ``TF_NUM_INTRAOP_THREADS`` and ``TF_NUM_INTEROP_THREADS``
(TensorFlow), ``NPROC`` (the pool of XLA, JAX's compiler) and, for a single thread, XLA's flag
against a second pool. The Python thread that feeds the batches comes on top; it mostly waits.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

BACKENDS = ("jax", "tensorflow", "torch")


def installed(python: Path) -> dict[str, str]:
    """Return the versions of Keras and, by contender, of the backends of an interpreter."""
    code = (
        "import importlib.metadata as metadata, json\n"
        "found = metadata.packages_distributions()\n"
        f"names = [name for name in {('keras', *BACKENDS)} if name in found]\n"
        "print(json.dumps({name: metadata.version(found[name][0]) for name in names}))"
    )
    answer = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    versions = json.loads(answer.stdout)
    if "keras" not in versions:
        return {}
    keras = {"keras": versions.pop("keras")}
    return keras | {f"keras-{backend}": version for backend, version in versions.items()}


@contextmanager
def contenders(
    python: Path, names: list[str], work, data, n_threads: int
) -> Iterator[dict[str, Callable[[], tuple[float, float]]]]:
    """Start a process for each name, such as "keras-jax"; offer them as contenders."""
    if not names:
        yield {}
        return
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "data.npz")
        np.savez(path, **data._asdict())
        settings = json.dumps({**asdict(work), "data": str(path)})
        processes = {
            name: stack.enter_context(
                subprocess.Popen(
                    [python.absolute(), "-m", "benchmarks.keras_worker", settings],
                    cwd=Path(__file__).parents[1],
                    env=os.environ
                    | _environment(name.removeprefix("keras-"), work.dtype, n_threads),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name in names
        }
        yield {name: _asker(name, process) for name, process in processes.items()}


def _environment(backend: str, dtype: str, n_threads: int) -> dict[str, str]:
    n_threads = str(n_threads)
    return {
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_ENABLE_X64": str(dtype == "float64"),
        "JAX_PLATFORMS": "cpu",
        "NPROC": n_threads,
        "OMP_NUM_THREADS": n_threads,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTEROP_THREADS": n_threads,
        "TF_NUM_INTRAOP_THREADS": n_threads,
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false" if n_threads == "1" else "",
    }


def _asker(name: str, process: subprocess.Popen) -> Callable[[], tuple[float, float]]:
    def ask() -> tuple[float, float]:
        print("train", file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} ended; its own message stands above.")
        seconds, quality = json.loads(answer)
        return seconds, quality

    return ask


def keras_model(units: list[int], dtype: str, options: list[str]):
    """Return the compiled model; Keras's initial weights are Glorot's."""
    import keras

    keras.config.set_floatx(dtype)
    model = keras.Sequential([keras.Input((units[0],))])
    for width in units[1:-1]:
        model.add(keras.layers.Dense(width))
        if "batch norm" in options:  # torch's default constants
            model.add(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        model.add(keras.layers.ReLU())
        if "dropout 0.2" in options:
            model.add(keras.layers.Dropout(0.2))
    model.add(keras.layers.Dense(units[-1]))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="mean_squared_error" if units[0] == units[-1] else cross_entropy,
        jit_compile="auto",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def main():
    """Train once for each line of standard input."""
    work = json.loads(sys.argv[1])
    with np.load(work["data"]) as file:
        X, y, X_test, y_test = (file[name] for name in ("X", "y", "X_test", "y_test"))
    is_autoencoder = work["units"][0] == work["units"][-1]
    targets, test_targets = (X, X_test) if is_autoencoder else (y.astype(np.int32), y_test)
    model = keras_model(work["units"], work["dtype"], work["options"])
    variables = [*model.weights, *model.optimizer.variables]
    initial = [variable.numpy() for variable in variables]

    for _ in sys.stdin:
        # reset the weights, since a new model would have to be compiled
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        start = time.perf_counter()
        model.fit(
            X,
            targets,
            batch_size=work["batch_size"],
            epochs=work["epochs"],
            shuffle=True,
            verbose=0,
        )
        seconds = time.perf_counter() - start
        outputs = model.predict(X_test, batch_size=1000, verbose=0)
        if is_autoencoder:
            quality = np.mean((outputs - test_targets) ** 2)
        else:
            quality = np.mean(outputs.argmax(1) == test_targets)
        print(json.dumps([seconds, float(quality)]), flush=True)


if __name__ == "__main__":
    main()
