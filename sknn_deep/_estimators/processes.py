"""Fits on several processes, started by torchrun or for a single fit.

Each process runs the same fit as one rank of ``torch.distributed``. If processes are started for a
fit, this process is rank 0 and joblib workers are the other ranks: they receive the data in shared
memory and are reused by the next fit.
"""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import RLock, Thread
from typing import Any

import joblib
import torch
import torch.distributed as dist
from joblib.externals.loky.backend.reduction import dumps

from sknn_deep._estimators.call import Call
from sknn_deep._hardware.device import resolve_device
from sknn_deep._hardware.ranks import present_ranks, training_together
from sknn_deep._hardware.threads import allowed_threads, fixed_threads

_HOST = "127.0.0.1"
# How long a rank waits for the others, which may take longer to validate the data.
_PATIENCE = timedelta(minutes=30)
# A process can be in only one torch.distributed group at a time, so fits in several threads take
# turns.
_turn = RLock()


@contextmanager
def on_processes(estimator: Any, call: Call) -> Iterator[None]:
    """Run the fit in the block on as many processes as the estimator asks for.

    Parameters
    ----------
    estimator : estimator
        Its ``n_processes`` is their number, or says that torchrun has started them.
    call : Call
        The call that the other processes fit.
    """
    n_processes = estimator.n_processes
    if n_processes == 1 or present_ranks() is not None:
        yield
    elif n_processes == "torchrun":
        _join_group()
        with training_together():
            yield
    else:
        with _turn, _others(estimator, call, int(n_processes)):
            yield


def _join_group() -> None:
    """Join torchrun's process group, unless this process is in one."""
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise ValueError(
            "n_processes='torchrun' is for scripts that torchrun has started, as by `torchrun "
            "--nproc-per-node=2 script.py`, and for processes that have called "
            "torch.distributed.init_process_group(). This one has no rank; pass a number, such as "
            "n_processes=2, to start processes for this fit."
        )
    dist.init_process_group()


@contextmanager
def _others(estimator: Any, call: Call, n_processes: int) -> Iterator[None]:
    """Start the other ranks; run the block as rank 0."""
    estimator._check_combinations(call)  # checked first, because starting processes takes seconds
    with joblib.parallel_config("loky"):
        n_possible = joblib.effective_n_jobs(n_processes)
    if n_possible < n_processes or dist.is_initialized():
        raise ValueError(
            f"n_processes={n_processes} cannot start processes here, in a process that is a worker "
            "itself or a rank of torch.distributed; set n_processes=1"
            + (", or 'torchrun'." if dist.is_initialized() else ".")
        )
    _check_gpus(estimator.device, n_processes)
    n_threads = max(1, allowed_threads() // n_processes)
    store = dist.TCPStore(_HOST, 0, None, is_master=True, wait_for_workers=False)
    twin = _without_callbacks(estimator)
    check_travels(twin.get_params(deep=False))
    workers = joblib.Parallel(
        n_jobs=n_processes, backend="loky", batch_size=1, return_as="generator_unordered"
    )
    ends = workers(
        joblib.delayed(_be_rank)(twin, call, rank, n_processes, store.port, n_threads)
        for rank in range(1, n_processes)
    )
    watch = _Watch(ends)
    try:
        while not store.check([f"rank {rank}" for rank in range(1, n_processes)]):
            watch.raise_error()
            time.sleep(0.01)
        with _group(store, 0, n_processes), fixed_threads(n_threads), training_together():
            yield
    except BaseException as error:
        # the others fail once this rank is gone; if one failed first, its error explains more
        watch.join()
        if isinstance(error, RuntimeError) and watch.error is not None:
            raise watch.error from error
        raise
    watch.join()
    if not vars(estimator).get("interrupted_"):  # only this process receives the user's Ctrl-C
        watch.raise_error()


def check_travels(values: dict[str, Any]) -> None:
    """Refuse parameters, by name, that cannot be sent to another process.

    Raises
    ------
    TypeError
    """
    for name, value in values.items():
        try:
            dumps(value)
        except Exception as error:
            raise TypeError(
                f"{name}={value!r} cannot be sent to the processes that train: {error}. Leave out "
                "what belongs to this process, such as a lock, an open file or a connection."
            ) from error


def _check_gpus(asked: Any, n_processes: int) -> None:
    """Refuse more processes than there are GPUs to train on, and one GPU for all."""
    device = resolve_device(asked)
    if device.type != "cuda":
        return
    n_gpus = torch.cuda.device_count()
    if n_gpus < n_processes or torch.device(asked if asked != "auto" else "cuda").index is not None:
        raise ValueError(
            f"n_processes={n_processes} on device={str(asked)!r} needs a GPU for each, and there "
            f"are {n_gpus}: set device='cuda' and n_processes to {max(1, n_gpus)} at most, or "
            "device='cpu'."
        )


class _Watch(Thread):
    """Waits for the other ranks to finish; keeps their first error."""

    def __init__(self, ends: Iterator[Exception | None]):
        super().__init__(daemon=True)
        self._ends = ends
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for error in self._ends:
                self.error = self.error or error
        except BaseException as error:
            self.error = error

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


@contextmanager
def _group(store: Any, rank: int, n_processes: int) -> Iterator[None]:
    """Join a process group as a rank for the duration of a block."""
    options: dict[str, Any] = {"rank": rank, "world_size": n_processes, "timeout": _PATIENCE}
    dist.init_process_group(store=store, **options)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _be_rank(
    estimator: Any, call: Call, rank: int, n_processes: int, port: int, n_threads: int
) -> Exception | None:
    """Fit as one of the ranks, in a worker; return the error if there was one.

    If a worker raised, joblib would end all workers and the next fit would have to start new ones.
    """
    warnings.simplefilter("ignore")  # rank 0 warns
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    store = dist.TCPStore(_HOST, port, None, is_master=False)
    store.set(f"rank {rank}", "is here")
    try:
        with _group(store, rank, n_processes), fixed_threads(n_threads), training_together():
            estimator._fit_networks(call)
    except Exception as error:
        return error
    return None


def _without_callbacks(estimator: Any) -> Any:
    """Return a copy for the other ranks, without callbacks and printing, which only rank 0 does."""
    twin = object.__new__(type(estimator))
    vars(twin).update(vars(estimator))
    vars(twin).pop("_skl_callbacks", None)
    twin.callbacks, twin.verbose = None, False
    return twin
