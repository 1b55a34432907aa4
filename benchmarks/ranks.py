"""Several processes that train one network: ``python -m benchmarks.ranks``.

A classifier with two hidden layers, 256-1024-1024-10 or as wide as ``--units`` says, trains with
batches of 1024 rows on one process, and on two, each with one thread. A figure is the time of an
epoch in seconds, excluding the first epoch, and the best of the alternating rounds; in brackets the
CPU seconds of this process, which are more reliable if other processes use the machine. The second
process is a joblib worker that is already running.

The time of a step of two processes beyond half a step of one is the sum of the gradients: each
process sends the other a buffer of all weights.
"""

import time
import warnings

import numpy as np
from skorch.callbacks import Callback

from benchmarks import harness
from sknn_deep import DeepMLPClassifier
from sknn_deep._hardware.threads import fixed_threads


class CpuTime(Callback):
    """Records the CPU time of this process at the end of each epoch."""

    def __init__(self):
        self.seconds = []

    def on_epoch_end(self, net, **kwargs):
        self.seconds.append(time.process_time())


def seconds_of_epoch(n_processes, n_units, data):
    """Train four epochs; return wall and CPU seconds of the fastest after the first."""
    cpu = CpuTime()
    classifier = DeepMLPClassifier(
        (n_units, n_units), batch_size=1024, max_iter=4, random_state=0, device="cpu",
        n_processes=n_processes, callbacks=[cpu],
    )  # fmt: skip
    with fixed_threads(n_processes):  # shared by the processes
        classifier.fit(*data)
    return min(classifier.history_[1:, "dur"]), np.diff(cpu.seconds).min()


def main():
    """Time one process and two, and print the ratio."""
    options = harness.parser(__doc__, rounds=3)
    options.add_argument("--units", type=int, nargs="*", default=[256, 1024, 2048])
    arguments = options.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8192, 256), dtype=np.float32)
    data = X, X[:, :10].argmax(axis=1)
    print("units      weights     one, s (CPU)     two, s (CPU)   times as fast (CPU)")
    for n_units in arguments.units:
        found = {1: [], 2: []}
        for _ in range(arguments.rounds):
            for n_processes, seconds in found.items():
                seconds.append(seconds_of_epoch(n_processes, n_units, data))
        (one, one_cpu), (two, two_cpu) = (np.min(found[n], axis=0) for n in (1, 2))
        print(
            f"{n_units:5} {n_units * (256 + n_units + 10):12,} {one:9.3f} ({one_cpu:.3f}) "
            f"{two:9.3f} ({two_cpu:.3f}) {one / two:12.2f} ({one_cpu / two_cpu:.2f})"
        )


if __name__ == "__main__":
    main()
