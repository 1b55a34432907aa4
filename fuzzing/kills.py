"""Trainings that are killed and started again: ``python -m fuzzing.kills --minutes 30``.

Each training keeps a checkpoint after every epoch, is killed with SIGKILL again and again, at a
random moment or at a given point of a write, and is started again with the same call until it
ends. What comes out is compared, bit for bit, with what a training gives that nobody disturbs.

Processes are forked from a server that has imported everything, so a kill costs some hundredths of
a second.
"""

import argparse
import json
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import EarlyStopping, EpochScoring, Freezer, LRScheduler, Unfreezer

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._training import checkpoint
from sknn_deep.callbacks import TrainingCheckpoint

N_ROWS, N_EPOCHS = 240, 10
SHARED = {"hidden_layer_sizes": (16,), "batch_size": 32, "max_iter": N_EPOCHS, "random_state": 0}
# Where in a write a process kills itself.
STAGES = ("before the write", "in the write", "before fsync", "before replace", "after replace")


def _classifier(**params):
    return DeepMLPClassifier(**{**SHARED, **params})


def _regressor(**params):
    return DeepMLPRegressor(**{**SHARED, **params})


def _autoencoder(**params):
    return AutoencoderTransformer(**{"n_components": 4, **SHARED, **params})


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and weights of few digits, with as many held out behind them."""
    X, y = load_digits(return_X_y=True)
    X, y = X[: 2 * N_ROWS] / 16, y[: 2 * N_ROWS]
    return X, y, np.random.default_rng(0).uniform(0.5, 2.0, N_ROWS)


def _with_validation_set(estimator, X, y):
    return estimator.fit(X[:N_ROWS], y[:N_ROWS], X_val=X[N_ROWS:], y_val=y[N_ROWS:])


# Each is given features, labels, weights and callbacks, and fits anew.
CASES: dict[str, Callable[..., Any]] = {
    "adam, dropout, early stopping": lambda X, y, weight, callbacks: _classifier(
        dropout=0.3, early_stopping=True, callbacks=callbacks
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "sgd, adaptive": lambda X, y, weight, callbacks: _regressor(
        solver="sgd", learning_rate="adaptive", learning_rate_init=0.01, tol=0.5,
        n_iter_no_change=1, callbacks=callbacks,
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "sgd, invscaling, weights": lambda X, y, weight, callbacks: _classifier(
        solver="sgd", learning_rate="invscaling", learning_rate_init=0.1, callbacks=callbacks
    ).fit(X[:N_ROWS], y[:N_ROWS], weight),
    "nadam, early stopping": lambda X, y, weight, callbacks: _regressor(
        solver="nadam", early_stopping=True, weight_decay=0.01, callbacks=callbacks
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "torch's class": lambda X, y, weight, callbacks: _classifier(
        solver=torch.optim.SGD, solver_params={"momentum": 0.9}, learning_rate_init=0.05,
        callbacks=callbacks,
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "torch's L-BFGS": lambda X, y, weight, callbacks: _regressor(
        solver=torch.optim.LBFGS, learning_rate_init=0.1, batch_size=N_ROWS, callbacks=callbacks
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "muon": lambda X, y, weight, callbacks: _classifier(
        solver="muon", hidden_layer_sizes=(16, 8), callbacks=callbacks
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "batch normalisation, cosine": lambda X, y, weight, callbacks: _with_validation_set(
        _classifier(
            normalization="batch", dropout=0.2, learning_rate="cosine", learning_rate_init=0.01,
            class_weight="balanced", callbacks=callbacks,
        ), X, y,
    ),
    "autoencoder, noise": lambda X, y, weight, callbacks: _autoencoder(
        noise=0.2, order_code=True, early_stopping=True, callbacks=callbacks
    ).fit(X[:N_ROWS], sample_weight=weight),
    "autoencoder, salt and pepper": lambda X, y, weight, callbacks: _autoencoder(
        noise=0.2, noise_kind="salt_pepper", normalization="batch", tied_weights=True,
        callbacks=callbacks,
    ).fit(X[:N_ROWS]),
    "autoencoder, variational": lambda X, y, weight, callbacks: _autoencoder(
        variational=True, beta=0.1, batch_size=80, callbacks=callbacks
    ).fit(X[:N_ROWS]),
    "autoencoder, contractive": lambda X, y, weight, callbacks: _autoencoder(
        contractive=0.1, dropout=0.1, batch_size=80, callbacks=callbacks
    ).fit(X[:N_ROWS]),
    "skorch's callbacks": lambda X, y, weight, callbacks: _classifier(
        callbacks=[
            *(callbacks or []),
            LRScheduler("StepLR", step_size=3, gamma=0.5),
            EpochScoring("accuracy", on_train=True, use_caching=False),
            EarlyStopping(monitor="train_loss", patience=7, threshold=0.5),
        ]
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "frozen layers": lambda X, y, weight, callbacks: _classifier(
        hidden_layer_sizes=(16, 8),
        callbacks=[*(callbacks or []), Freezer("*weight", at=2), Unfreezer("*weight", at=6)],
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "begun from an autoencoder": lambda X, y, weight, callbacks: _classifier(
        hidden_layer_sizes=(16, 4), callbacks=callbacks,
        init_from=_autoencoder(max_iter=2).fit(X[:N_ROWS]),
    ).fit(X[:N_ROWS], y[:N_ROWS]),
    "sparse, labels are words": lambda X, y, weight, callbacks: _classifier(
        shuffle=False, callbacks=callbacks
    ).fit(sp.csr_matrix(X[:N_ROWS]), np.array([f"class {k}" for k in y[:N_ROWS]], dtype=object)),
    "two threads": lambda X, y, weight, callbacks: _classifier(
        hidden_layer_sizes=(128, 128), batch_size=200, early_stopping=True, callbacks=callbacks
    ).fit(X, y),
}  # fmt: skip


def outcome(estimator, X: np.ndarray) -> dict[str, Any]:
    """Return all that a fit has come to, but for durations."""
    predict = getattr(estimator, "predict_proba", getattr(estimator, "predict", None))
    rows = [{**row, "dur": None} for row in estimator.history_]
    names = ("loss_curve_", "validation_scores_", "validation_loss_curve_", "best_loss_")
    names += ("best_iter_", "best_validation_score_", "n_iter_", "t_", "interrupted_")
    return {
        "state": {name: value.numpy() for name, value in estimator.module_.state_dict().items()},
        "predictions": (predict or estimator.transform)(X),
        "history": rows,
        **{name: getattr(estimator, name) for name in names},
    }


def differences(one: Any, other: Any) -> list[str]:
    """Return where two outcomes differ in a bit."""
    return [name for name in one | other if _text(one.get(name)) != _text(other.get(name))]


def _text(value: Any) -> str:
    """Return numbers, arrays and containers of them to the last bit."""
    return json.dumps(value, default=lambda array: [str(array.dtype), array.tolist()])


def train(case: str, checkpoint: str | None, result: str, stage: str | None, n_write: int) -> None:
    """Fit, in a process of its own, and write what comes out to a file.

    Parameters
    ----------
    case : str
        A key of ``CASES``.
    checkpoint : str or None
    result : str
        The file to write to.
    stage : str or None
        Of ``STAGES``: where the process kills itself.
    n_write : int
        In which of its writes.
    """
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(2 if case == "two threads" else 1)
    if stage is not None:
        _kill_in_write(stage, n_write)
    X, y, weight = digits()
    callbacks = None if checkpoint is None else [TrainingCheckpoint(checkpoint)]
    found = outcome(CASES[case](X, y, weight, callbacks), X)
    Path(f"{result}.part").write_bytes(pickle.dumps(found))
    os.replace(f"{result}.part", result)


def _kill_in_write(stage: str, n_write: int) -> None:
    """Let this process die at a point of its n-th write of a checkpoint."""

    atomic_write, n_begun = checkpoint.atomic_write, 0

    def dying(path, write):
        nonlocal n_begun
        n_begun += 1
        if n_begun < n_write:
            return atomic_write(path, write)
        if stage == "before the write":
            _die()
        if stage == "in the write":
            return atomic_write(path, lambda file: write(_DyingFile(file)))
        name, when = stage.rpartition(" ")[2], stage.partition(" ")[0]
        call = getattr(os, name)

        def dying_call(*args):
            if when == "after":
                call(*args)
            _die()

        setattr(os, name, dying_call)
        return atomic_write(path, write)

    checkpoint.atomic_write = dying


class _DyingFile:
    """A file in whose first write the process dies half-way."""

    def __init__(self, file):
        self._file = file

    def write(self, content: bytes) -> None:
        self._file.write(content[: len(content) // 2])
        self._file.flush()
        _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Killer:
    """Starts trainings, kills them, and starts them again.

    Parameters
    ----------
    directory : Path
        For checkpoints and results.
    seed : int

    Attributes
    ----------
    kills : Counter
        How many there were, by stage.
    """

    def __init__(self, directory: Path, seed: int):
        self._directory, self._random = directory, np.random.default_rng(seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["sknn_deep", "torch._dynamo"])
        self._expected: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}
        self.kills: Counter = Counter()

    def expected(self, case: str) -> Any:
        """Return the outcome of a training that nobody disturbs."""
        if case not in self._expected:
            # on several threads only a checkpoint makes the clock decide nothing
            own = str(self._directory / "undisturbed") if case == "two threads" else None
            self._run(case, own, None, 0)
            start = time.perf_counter()
            self._run(case, str(self._directory / "timed"), None, 0)
            self._seconds[case] = time.perf_counter() - start
            (self._directory / "timed").unlink()
            self._expected[case] = self._result()
        return self._expected[case]

    def disturbed(self, case: str, stages: list[str]) -> Any:
        """Return the outcome of a training that is killed again and again.

        Parameters
        ----------
        case : str
        stages : list of str
            Where it is killed, one after the other; "any moment" is a random one. Then it
            is left alone.
        """
        self.expected(case)
        checkpoint = self._directory / "checkpoint"
        checkpoint.unlink(missing_ok=True)
        for stage in stages:
            if stage == "any moment":
                delay = self._random.uniform(0, self._seconds[case])
                has_died = self._run(case, str(checkpoint), None, 0, delay)
            else:
                n_write = int(self._random.integers(1, 4))
                has_died = self._run(case, str(checkpoint), stage, n_write)
            self.kills[stage] += has_died
        self._run(case, str(checkpoint), None, 0)
        leftovers = [path for path in self._directory.iterdir() if path.suffix == ".tmp"]
        assert not leftovers, leftovers
        return self._result()

    def _run(
        self, case: str, checkpoint: str | None, stage: str | None, n_write: int,
        delay: float | None = None,
    ) -> bool:  # fmt: skip
        """Train in a process; return whether it was killed."""
        result = str(self._directory / "result")
        process = self._context.Process(
            target=train, args=(case, checkpoint, result, stage, n_write)
        )
        process.start()
        if delay is not None:
            process.join(delay)
            process.kill()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{case}: the process ended with {process.exitcode}")
        return process.exitcode != 0

    def _result(self) -> Any:
        return pickle.loads((self._directory / "result").read_bytes())


def main() -> None:
    """Kill trainings for some minutes, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random, end = np.random.default_rng(arguments.seed), time.time() + 60 * arguments.minutes
    n_trainings, mismatches, said = Counter(), [], time.time()
    with tempfile.TemporaryDirectory() as directory:
        killer = Killer(Path(directory), arguments.seed)
        while time.time() < end:
            case = random.choice(list(CASES))
            stages = random.choice(
                ["any moment", "any moment", *STAGES], size=random.integers(1, 6)
            )
            found = differences(killer.expected(case), killer.disturbed(case, stages.tolist()))
            n_trainings[case] += 1
            if found:
                mismatches.append((case, stages.tolist(), found))
                print("MISMATCH", *mismatches[-1], flush=True)
            if time.time() > said + 60:
                said = time.time()
                _say(n_trainings, killer, mismatches)
    _say(n_trainings, killer, mismatches)
    for what in (killer.kills, n_trainings):
        print(", ".join(f"{name}: {number}" for name, number in sorted(what.items())))
    sys.exit(bool(mismatches))


def _say(n_trainings: Counter, killer: Killer, mismatches: list) -> None:
    print(
        f"trainings {n_trainings.total()}, kills {killer.kills.total()}, "
        f"mismatches {len(mismatches)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
