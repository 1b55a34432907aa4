"""Up to how many processes a training pays: ``python -m benchmarks.scaling``.

A model with constants measured on this machine. A step of one process on n rows takes

    c + d n

seconds, fitted to the CPU time of steps of 128 to 1024 rows on one thread. Summing the gradients
over p processes in a ring takes

    2 (p - 1) (a + b w / p)

seconds for w bytes of weights, with latency a and seconds per byte b fitted to sums between two
processes on this machine with gloo, from 4 kB to 16 MB. ``--latency`` and ``--bandwidth`` replace
them by those of a network, and ``--step`` this machine by another. If the matrices of the layers
after the first hidden one have at least a megabyte, their sum starts while the products of the
first layer are computed. These are a share f of the operations per row, so only the part of this
first sum that takes longer than f d n is waited for. The two parts are separate sums, each with its
latency.

Strong scaling divides a batch of 1024 rows, weak scaling gives each process 1024 rows. Figures are
the speed-up of p processes in rows per second; in brackets, that without overlap, if the sum starts
only when the whole gradient is known.
"""

import socket
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
import torch.distributed as dist

from benchmarks import harness
from sknn_deep import DeepMLPClassifier
from sknn_deep._engine.gradient_sum import LEAST_BYTES
from sknn_deep._hardware.threads import fixed_threads

N_PROCESSES = (2, 4, 8, 16, 32, 64)
N_ROWS, N_FEATURES, N_CLASSES = 1024, 256, 10


def seconds_of_step(n_units, n_rows):
    """Return the CPU time in seconds of a step of one process, with two hidden layers."""
    rng = np.random.default_rng(0)
    n_steps = max(2, 2048 // n_rows)
    X = rng.standard_normal((n_steps * n_rows, N_FEATURES), dtype=np.float32)
    y = X[:, :N_CLASSES].argmax(axis=1)

    def seconds(n_epochs):
        classifier = DeepMLPClassifier(
            (n_units, n_units), batch_size=n_rows, max_iter=n_epochs, random_state=0, device="cpu"
        )
        start = time.process_time()
        classifier.fit(X, y)
        return time.process_time() - start

    with fixed_threads(1):
        seconds(1)
        return min(seconds(3) - seconds(1) for _ in range(2)) / (2 * n_steps)


def seconds_of_sums(rank, port, sizes):
    """Return the times in which two processes sum buffers of the given sizes in bytes."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = []
    for size in sizes:
        buffer, seconds = torch.zeros(size // 4), []
        for _ in range(30):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(buffer)
            seconds.append(time.perf_counter() - start)
        found.append(min(seconds))
    dist.destroy_process_group()
    return found


def fit_line(x, y):
    """Return non-negative intercept and slope that minimise the squared relative errors."""
    x, y = np.asarray(x, dtype=float), np.asarray(y)
    (intercept, slope), *_ = np.linalg.lstsq(
        np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None
    )
    return max(0.0, float(intercept)), max(0.0, float(slope))


def measured_network():
    """Return latency and seconds per byte of sums between two processes."""
    sizes = [2**k for k in range(12, 25, 2)]
    port = free_port()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        both = [pool.submit(seconds_of_sums, rank, port, sizes) for rank in range(2)]
        of_first = both[0].result()
    latency, of_byte = fit_line(sizes, of_first)
    return latency / 2, of_byte  # for two processes, the ring is two messages of half the size


def free_port():
    """Return a port that is currently free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def early_part(n_units):
    """Return how many bytes are sent early, and the share of a row's operations after that."""
    n_bytes = 4 * n_units * (n_units + N_CLASSES)
    first, later = N_FEATURES * n_units, n_units * (n_units + N_CLASSES)
    after = n_units * n_units + first  # the gradient of the first layer's outputs and matrix
    return (n_bytes, after / (2 * first + 3 * later)) if n_bytes >= LEAST_BYTES else (0, 0.0)


def speed_up(n_processes, step, network, n_units, *, weak, overlapped):
    """Return the speed-up of several processes over one, in rows per second."""
    constant, of_row = step
    latency, of_byte = network
    own_rows = N_ROWS if weak else N_ROWS / n_processes
    early, share = early_part(n_units) if overlapped else (0, 0.0)
    n_bytes = 4 * n_units * (N_FEATURES + n_units + N_CLASSES)

    def ring(size):
        return 2 * (n_processes - 1) * (latency + of_byte * size / n_processes)

    waited = ring(n_bytes - early)
    if early:
        waited += max(0.0, ring(early) - share * of_row * own_rows)
    alone = constant + of_row * N_ROWS
    together = constant + of_row * own_rows + waited
    return alone / together * (n_processes if weak else 1)


def main():
    """Measure, and print both tables."""
    options = harness.parser(__doc__)
    options.add_argument("--units", type=int, nargs="*", default=[256, 1024])
    options.add_argument(
        "--step", type=float, nargs=2, metavar=("MS", "US"), help="milliseconds c, microseconds d"
    )
    options.add_argument("--latency", type=float, metavar="US", help="microseconds of a message")
    options.add_argument("--bandwidth", type=float, metavar="GBIT", help="gigabits a second")
    arguments = options.parse_args()
    warnings.simplefilter("ignore")
    given = arguments.latency, arguments.bandwidth
    latency, of_byte = (0.0, 0.0) if all(given) else measured_network()
    latency = latency if arguments.latency is None else arguments.latency * 1e-6
    of_byte = of_byte if arguments.bandwidth is None else 8e-9 / arguments.bandwidth
    print(f"a message: {latency * 1e6:.0f} µs and {8e-9 / of_byte:.1f} Gbit/s")
    rows = []
    for n_units in arguments.units:
        if arguments.step is None:
            sizes = [128, 256, 512, 1024]
            step = fit_line(sizes, [seconds_of_step(n_units, size) for size in sizes])
        else:
            step = arguments.step[0] * 1e-3, arguments.step[1] * 1e-6
        n_weights = n_units * (N_FEATURES + n_units + N_CLASSES)
        for weak in (False, True):
            found = [
                [
                    speed_up(p, step, (latency, of_byte), n_units, weak=weak, overlapped=overlapped)
                    for overlapped in (True, False)
                ]
                for p in N_PROCESSES
            ]
            kind = "weak" if weak else "strong"
            cells = [f"{early:.1f} ({late:.1f})" for early, late in found]
            rows.append([f"{n_weights:,}", kind, *cells])
        print(f"{n_weights:,} weights: {step[0] * 1e3:.2f} ms + {step[1] * 1e6:.2f} µs a row")
    harness.print_table(["weights", "scaling", *map(str, N_PROCESSES)], rows)


if __name__ == "__main__":
    main()
