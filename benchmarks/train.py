"""Training time against scikit-learn, skorch and plain torch: ``python -m benchmarks.train``.

All contenders train the same architecture with Adam from the same initial scale, in the
same type, on the same data, batch size, number of epochs and threads. The floor is the
time of the matrix products alone: three for each layer and batch (two for the first, whose
input needs no gradient), into buffers, with nothing between them.
"""

import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from skorch import NeuralNetClassifier, NeuralNetRegressor
from threadpoolctl import threadpool_limits

from benchmarks import harness
from sknn_deep import AutoencoderTransformer, DeepMLPClassifier
from sknn_deep.datasets import fetch_mnist


@dataclass
class Work:
    """One thing to train: layer units, batch size, epochs, data type."""

    units: tuple[int, ...]
    batch_size: int
    epochs: int
    dtype: str = "float32"
    n_samples: int = 2000
    one_thread: bool = False
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ["-".join(map(str, self.units)), f"batch {self.batch_size}", *self.options]
        return ", ".join(parts + ([self.dtype] if self.dtype != "float32" else []))

    @property
    def is_autoencoder(self) -> bool:
        return self.units[0] == self.units[-1]

    def data(self):
        """Return real images where the width is theirs, else Gaussian rows."""
        if self.units[0] == 784:
            mnist = fetch_mnist()
            X, y = mnist.X_train[: self.n_samples], mnist.y_train[: self.n_samples]
        elif self.units[0] == 64:
            X, y = load_digits(return_X_y=True)
            X = X / 16
        else:
            rng = np.random.default_rng(0)
            X = rng.normal(size=(self.n_samples, self.units[0]))
            y = rng.integers(0, self.units[-1], self.n_samples)
        return np.ascontiguousarray(X, dtype=self.dtype), y


WORKS = {
    "tiny": Work((10, 32, 2), 32, 10, one_thread=True),
    "small": Work((8, 64, 64, 3), 200, 20, n_samples=8000, one_thread=True),
    "digits": Work((64, 100, 10), 200, 40, one_thread=True),
    "mnist-200": Work((784, 128, 64, 10), 200, 1, n_samples=60000),
    "mnist-2048": Work((784, 128, 64, 10), 2048, 2, n_samples=60000),
    "mnist-float64": Work((784, 128, 64, 10), 200, 1, "float64", n_samples=60000),
    "mnist-regularised": Work(
        (784, 128, 64, 10), 256, 1, n_samples=60000, options=("dropout 0.2", "batch norm")
    ),
    "autoencoder": Work((784, 128, 64, 32, 64, 128, 784), 256, 1, n_samples=20000),
}


def contenders(work: Work) -> dict:
    """Return what trains the work, by name."""
    X, y = work.data()
    runs = {"sknn_deep": lambda: ours(work).fit(X, y), "torch": plain_torch(work, X, y)}
    if not work.options:
        runs["scikit-learn"] = scikit_learn(work, X, y)
    runs["skorch"] = with_skorch(work, X, y)
    runs["floor"] = matrix_products(work)
    return runs


def ours(work: Work):
    """Return our estimator."""
    settings = {
        "batch_size": work.batch_size,
        "max_iter": work.epochs,
        "n_iter_no_change": np.inf,
        "random_state": 0,
    }
    if work.is_autoencoder:
        half = len(work.units) // 2
        return AutoencoderTransformer(work.units[half], work.units[1:half], **settings)
    if work.options:
        settings |= {"dropout": 0.2, "normalization": "batch"}
    return DeepMLPClassifier(work.units[1:-1], **settings)


def scikit_learn(work: Work, X, y):
    """Return a run of scikit-learn's MLP."""
    kind = MLPRegressor if work.is_autoencoder else MLPClassifier
    estimator = kind(
        hidden_layer_sizes=work.units[1:-1],
        batch_size=work.batch_size,
        max_iter=work.epochs,
        n_iter_no_change=np.inf,
        random_state=0,
    )
    return lambda: estimator.fit(X, X if work.is_autoencoder else y)


def torch_module(work: Work) -> torch.nn.Module:
    """Return the network as a torch user writes it."""
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(work.units):
        layers.append(torch.nn.Linear(fan_in, fan_out))
        if "batch norm" in work.options:
            layers.append(torch.nn.BatchNorm1d(fan_out))
        layers.append(torch.nn.ReLU())
        if "dropout 0.2" in work.options:
            layers.append(torch.nn.Dropout(0.2))
    n_after_last = 1 + len(work.options)
    return torch.nn.Sequential(*layers[:-n_after_last]).to(getattr(torch, work.dtype))


def torch_loss(work: Work) -> torch.nn.Module:
    """Return the loss as a torch user takes it."""
    return torch.nn.MSELoss() if work.is_autoencoder else torch.nn.CrossEntropyLoss()


def plain_torch(work: Work, X, y):
    """Return a run of a loop that a careful torch user writes: no DataLoader, fused Adam."""
    X = torch.from_numpy(X)
    y = X if work.is_autoencoder else torch.from_numpy(y)

    def run():
        module, loss = torch_module(work), torch_loss(work)
        optimizer = torch.optim.Adam(module.parameters(), fused=True)
        for _ in range(work.epochs):
            for rows in torch.randperm(len(X)).split(work.batch_size):
                optimizer.zero_grad()
                loss(module(X[rows]), y[rows]).backward()
                optimizer.step()

    return run


def with_skorch(work: Work, X, y):
    """Return a run of skorch with its defaults for data loading."""
    kind = NeuralNetRegressor if work.is_autoencoder else NeuralNetClassifier
    net = kind(
        lambda: torch_module(work),
        criterion=lambda: torch_loss(work),
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=work.batch_size,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    return lambda: net.fit(X, X if work.is_autoencoder else y)


def matrix_products(work: Work):
    """Return a run of the matrix products of the training and nothing else."""
    dtype = getattr(torch, work.dtype)
    rows = work.batch_size
    shapes = list(pairwise(work.units))
    activations = [torch.rand(rows, n, dtype=dtype) for n in work.units]
    deltas = [torch.rand(rows, n, dtype=dtype) for n in work.units]
    weights = [torch.rand(n_out, n_in, dtype=dtype) for n_in, n_out in shapes]
    gradients = [torch.empty_like(weight) for weight in weights]
    n_samples = 1797 if work.units[0] == 64 else work.n_samples

    def run():
        for _ in range(work.epochs * -(-n_samples // rows)):
            for i, weight in enumerate(weights):
                torch.mm(activations[i], weight.t(), out=activations[i + 1])
            for i in reversed(range(len(weights))):
                torch.mm(deltas[i + 1].t(), activations[i], out=gradients[i])
                if i > 0:
                    torch.mm(deltas[i + 1], weights[i], out=deltas[i])
            for activation in activations[1:]:
                activation.fill_(0.5)  # keep the products from growing without bound

    return run


def main():
    """Time every work and print the ratios."""
    options = harness.parser(__doc__)
    options.add_argument("works", nargs="*", help=f"among {list(WORKS)}; default: all")
    arguments = options.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    others = ["scikit-learn", "skorch", "torch", "floor"]
    rows, results = [], {}
    for name in arguments.works or WORKS:
        work = WORKS[name]
        threads = 1 if work.one_thread else arguments.threads or torch.get_num_threads()
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            seconds = harness.alternate(contenders(work), arguments.rounds)
        torch.set_num_threads(before)
        results[name] = seconds
        cells = [harness.ratio(seconds, other) if other in seconds else "–" for other in others]
        own = np.median(seconds["sknn_deep"]) / work.epochs
        rows.append([str(work), f"{threads}", f"{own:.3f}", *cells])
    print(", ".join(f"{key} {value}" for key, value in harness.machine().items()) + "\n")
    header = ["work", "threads", "our seconds per epoch", *(f"{other} / ours" for other in others)]
    harness.print_table(header, rows)
    harness.save(arguments.json, results)


if __name__ == "__main__":
    main()
