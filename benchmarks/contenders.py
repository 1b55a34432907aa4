"""The tasks, and the contenders that train in this process.

Each contender is a function of a task and its data. It returns a function without arguments that
trains a new network and returns its ``predict``, from rows to labels or, for an autoencoder, to
reconstructions.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor
from skorch import NeuralNetClassifier, NeuralNetRegressor

from sknn_deep import (
    AutoencoderTransformer,
    DeepMLPClassifier,
    DeepMLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from sknn_deep.datasets import fetch_mnist

Predict = Callable[[np.ndarray], np.ndarray]


class Data(NamedTuple):
    """Training rows and test rows; the same if there is no test set."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclass
class Work:
    """One training task: layer units, batch size, epochs, data type.

    A task whose last layer is as wide as its input is an autoencoder. With ``numbers_in_a_row``,
    the rows are sparse word counts with few frequent words. With ``has_targets``, it is a
    regressor. If it ``rounds_to`` bfloat16, the data and the other contenders use float32, except
    torch, which uses its autocast. With ``is_tabular``, it has the defaults of our estimators for
    tables, which choose the hidden layers, and its first and last units are those of the data.
    """

    units: tuple[int, ...]
    batch_size: int
    epochs: int
    dtype: str = "float32"
    n_samples: int = 60000
    one_thread: bool = False
    options: tuple[str, ...] = ()
    device: str = "cpu"
    rounds_to: str = ""
    numbers_in_a_row: int | None = None
    has_targets: bool = False
    is_tabular: bool = False

    def __str__(self) -> str:
        if self.is_tabular:
            kind = "TabularMLPClassifier" if self.is_classifier else "TabularMLPRegressor"
            return f"{kind}, {self.n_samples:,} rows of {self.units[0]} numbers"
        parts = ["-".join(map(str, self.units)), f"batch {self.batch_size}", *self.options]
        parts += [f"{self.numbers_in_a_row} numbers a row"] * (self.numbers_in_a_row is not None)
        parts += ["targets"] * self.has_targets
        dtype = self.rounds_to or self.dtype
        return ", ".join(parts + ([dtype] if dtype != "float32" else []))

    @property
    def is_autoencoder(self) -> bool:
        return self.units[0] == self.units[-1]

    @property
    def is_classifier(self) -> bool:
        return not (self.is_autoencoder or self.has_targets)

    @property
    def suits_keras(self) -> bool:
        """Whether ``keras_worker`` can train it, on dense rows of one type."""
        is_special = self.is_tabular or self.has_targets or self.rounds_to
        return self.numbers_in_a_row is None and not is_special

    @property
    def has_test_set(self) -> bool:
        return self.units[0] == 784

    @property
    def measure(self) -> str:
        """Name of the figure that ``quality`` returns."""
        part = "test" if self.has_test_set else "training"
        return f"{part} {'accuracy' if self.is_classifier else 'mean squared error'}"

    def data(self) -> Data:
        """Return real images if the width matches them, else Gaussian rows with random labels."""
        if self.has_test_set:
            mnist = _mnist()
            X, X_test = (
                pixels.astype(self.dtype, copy=False) for pixels in (mnist.X_train, mnist.X_test)
            )
            return Data(X[: self.n_samples], mnist.y_train[: self.n_samples], X_test, mnist.y_test)
        if self.units[0] == 64:
            X, y = load_digits(return_X_y=True)
            X = X / 16
        else:
            rng = np.random.default_rng(0)
            if self.numbers_in_a_row is None:
                X = rng.normal(size=(self.n_samples, self.units[0]))
            else:
                X = _counts(rng, self.n_samples, self.units[0], self.numbers_in_a_row)
            y = rng.integers(0, self.units[-1], self.n_samples)
            if self.has_targets:
                shape = (self.n_samples, self.units[-1]) if self.units[-1] > 1 else self.n_samples
                y = rng.normal(size=shape).astype(self.dtype)
            elif self.units[-1] >= 64:  # each of the many classes occurs
                y = rng.permutation(self.n_samples) % self.units[-1]
        X = X.astype(self.dtype)
        return Data(X, y, X, y)

    def quality(self, predict: Predict, data: Data) -> float:
        """Return the accuracy of a network, or the error of an autoencoder."""
        if self.is_autoencoder:
            return float(np.mean((predict(data.X_test) - data.X_test) ** 2))
        if self.has_targets:
            return float(np.mean((predict(data.X_test) - data.y_test) ** 2))
        return float(np.mean(predict(data.X_test) == data.y_test))


_mnist = cache(fetch_mnist)


def _counts(rng: np.random.Generator, n_rows: int, n_words: int, per_row: int) -> Any:
    """Return word counts with Zipf-distributed frequencies as a CSR matrix."""
    frequencies = 1 / (np.arange(n_words) + 3)
    lengths = rng.lognormal(np.log(per_row), 0.5, n_rows).astype(int) + 1
    words = rng.choice(n_words, lengths.sum(), p=frequencies / frequencies.sum())
    places = np.repeat(np.arange(n_rows), lengths), rng.permutation(n_words)[words]
    return sp.coo_matrix((np.ones(len(words)), places), shape=(n_rows, n_words)).tocsr()


def ours(work: Work, X, y) -> Callable[[], Predict]:
    """Return a run of our estimator."""
    if work.is_tabular:
        estimator = tabular(work)
        return lambda: estimator.fit(X, y).predict
    settings = {
        "batch_size": work.batch_size,
        "max_iter": work.epochs,
        "n_iter_no_change": np.inf,
        "device": work.device,
    }
    if work.options:
        settings |= {"dropout": 0.2, "normalization": "batch"}
    if work.rounds_to:
        settings["dtype"] = work.rounds_to
    if not work.is_autoencoder:
        estimator_class = DeepMLPRegressor if work.has_targets else DeepMLPClassifier
        estimator = estimator_class(hidden_layer_sizes=work.units[1:-1], **settings)
        return lambda: estimator.fit(X, y).predict

    half = len(work.units) // 2
    # the other contenders' outputs are linear, too
    autoencoder = AutoencoderTransformer(
        work.units[half], work.units[1:half], output_activation="identity", **settings
    )

    def run():
        autoencoder.fit(X)
        return lambda rows: autoencoder.inverse_transform(autoencoder.transform(rows))

    return run


def tabular(work: Work) -> TabularMLPClassifier | TabularMLPRegressor:
    """Return our estimator for tables."""
    kind = TabularMLPClassifier if work.is_classifier else TabularMLPRegressor
    return kind(max_iter=work.epochs, batch_size=work.batch_size, device=work.device)


def scikit_learn(work: Work, X, y) -> Callable[[], Predict]:
    """Return a run of scikit-learn's MLP."""
    kind = MLPClassifier if work.is_classifier else MLPRegressor
    estimator = kind(
        hidden_layer_sizes=work.units[1:-1],
        batch_size=work.batch_size,
        max_iter=work.epochs,
        n_iter_no_change=np.inf,
    )
    return lambda: estimator.fit(X, X if work.is_autoencoder else y).predict


def with_skorch(work: Work, X, y) -> Callable[[], Predict]:
    """Return a run of skorch with its defaults for data loading."""
    net = skorch_net(work)
    return lambda: net.fit(X, X if work.is_autoencoder else y).predict


def plain_torch(work: Work, X, y) -> Callable[[], Predict]:
    """Return a run of a careful torch user's loop: no DataLoader, fused Adam."""
    X = torch.from_numpy(X).to(work.device)
    y = X if work.is_autoencoder else torch.from_numpy(y).to(work.device)

    def run():
        module, loss = torch_module(work), torch_loss(work)
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        for _ in range(work.epochs):
            for rows in torch.randperm(len(X), device=work.device).split(work.batch_size):
                optimizer.zero_grad()
                with torch.autocast(work.device, torch.bfloat16, enabled=bool(work.rounds_to)):
                    batch_loss = loss(module(X[rows]), y[rows])
                batch_loss.backward()
                optimizer.step()
        module.eval()
        wait_for(work.device)
        if not work.is_classifier:
            return lambda rows: torch_outputs(module, rows).numpy()
        return lambda rows: torch_outputs(module, rows).argmax(1).numpy()

    return run


def with_jax(work: Work, X, y) -> Callable[[], object]:
    """Return a run in JAX: an epoch is one compiled scan over its batches, with Adam.

    Rows beyond the last whole batch are left out.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory for others
    import jax
    from jax import numpy as jnp

    rows, labels = jnp.asarray(X), jnp.asarray(y)
    n_batches = len(X) // work.batch_size
    rng = np.random.default_rng(0)

    def weights():
        for n_in, n_out in pairwise(work.units):
            bound = np.sqrt(6 / (n_in + n_out))
            yield jnp.asarray(rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32))
            yield jnp.zeros(n_out)

    def loss(params, numbers):
        hidden = rows[numbers]
        *layers, last = zip(params[::2], params[1::2], strict=True)
        for weight, bias in layers:
            hidden = jax.nn.relu(hidden @ weight + bias)
        logarithms = jax.nn.log_softmax(hidden @ last[0] + last[1])
        return -jnp.take_along_axis(logarithms, labels[numbers][:, None], axis=1).mean()

    def step(state, numbers):
        params, m, v, n_steps = state
        gradients, n_steps = jax.grad(loss)(params, numbers), n_steps + 1
        m = [0.9 * old + 0.1 * new for old, new in zip(m, gradients, strict=True)]
        v = [0.999 * old + 0.001 * new**2 for old, new in zip(v, gradients, strict=True)]
        rate = 0.001 * jnp.sqrt(1 - 0.999**n_steps) / (1 - 0.9**n_steps)
        moves = [rate * a / (jnp.sqrt(b) + 1e-8) for a, b in zip(m, v, strict=True)]
        return ([w - move for w, move in zip(params, moves, strict=True)], m, v, n_steps), None

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(key, len(X))[: n_batches * work.batch_size]
        return jax.lax.scan(step, state, order.reshape(n_batches, work.batch_size))[0]

    def run():
        params = list(weights())
        state = params, *([jnp.zeros_like(w) for w in params] for _ in range(2)), jnp.zeros(())
        for key in jax.random.split(jax.random.key(0), work.epochs):
            state = epoch(state, key)
        return jax.block_until_ready(state)[0]

    return run


def wait_for(device: str) -> None:
    """Wait until a device has finished all its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def torch_module(work: Work) -> torch.nn.Sequential:
    """Return the network as a torch user would write it, with Glorot's initial weights."""
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(work.units):
        linear = torch.nn.Linear(fan_in, fan_out)
        torch.nn.init.xavier_uniform_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        layers.append(linear)
        if "batch norm" in work.options:
            layers.append(torch.nn.BatchNorm1d(fan_out))
        layers.append(torch.nn.ReLU())
        if "dropout 0.2" in work.options:
            layers.append(torch.nn.Dropout(0.2))
    n_after_last = 1 + len(work.options)
    module = torch.nn.Sequential(*layers[:-n_after_last])
    return module.to(work.device, getattr(torch, work.dtype))


def torch_loss(work: Work) -> torch.nn.Module:
    """Return the loss that a torch user would choose."""
    return torch.nn.CrossEntropyLoss() if work.is_classifier else torch.nn.MSELoss()


def torch_outputs(module: torch.nn.Module, rows: np.ndarray) -> torch.Tensor:
    """Return the outputs of a module for an array, on the CPU."""
    device = next(module.parameters()).device
    with torch.inference_mode():
        return module(torch.from_numpy(rows).to(device)).cpu()


def skorch_net(work: Work) -> NeuralNetClassifier | NeuralNetRegressor:
    """Return skorch's net around the same module and loss."""
    kind = NeuralNetClassifier if work.is_classifier else NeuralNetRegressor
    return kind(
        lambda: torch_module(work),
        criterion=lambda: torch_loss(work),
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=work.batch_size,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        device=work.device,
        verbose=0,
    )


def in_process(work: Work) -> dict[str, Callable[[Work, np.ndarray, np.ndarray], Callable]]:
    """Return the contenders that support a task, by name."""
    found = {"sknn_deep": ours, "scikit-learn": scikit_learn, "skorch": with_skorch}
    if work.is_tabular:
        return {"sknn_deep": ours}
    if work.options:  # scikit-learn's networks have neither dropout nor normalisation
        del found["scikit-learn"]
    if work.numbers_in_a_row is not None:  # the others do not support sparse rows
        return {"sknn_deep": ours, "scikit-learn": scikit_learn}
    return found | {"torch": plain_torch}
