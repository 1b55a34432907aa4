"""The client's side of a fit on a cluster: locating partitions, starting ranks, losing workers."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Any
from uuid import uuid4

import numpy as np
from distributed import Client, Future, rejoin, secede, wait
from distributed.client import FuturesCancelledError
from distributed.comm import get_address_host
from distributed.worker import thread_state

from sknn_deep._estimators.call import Call
from sknn_deep._estimators.callback_parameter import unnamed
from sknn_deep._training.checkpoint import TrainingCheckpoint
from sknn_deep._user_warnings import warn_user
from sknn_deep._wording import counted
from sknn_deep.dask import _ranks as ranks
from sknn_deep.dask._collections import partitions

# Seconds between the client's checks for lost workers; to wait for the other ranks to stop; and to
# wait for the scheduler to notice that a worker is gone.
_LOOK, _STOPPING, _NOTICING = 0.5, 30.0, 10.0


def fit_on_workers(estimator: Any, call: Call, client: Client) -> Any:
    """Fit an estimator on the workers that hold the data.

    Parameters
    ----------
    estimator : estimator
        An estimator without Dask; it is not changed.
    call : Call
        With collections.
    client : Client

    Returns
    -------
    fitted : estimator

    Raises
    ------
    RuntimeError
        If a worker is lost.
    """
    train = partitions(
        call.X, {"y": call.y, "sample_weight": call.sample_weight, "groups": call.groups}
    )
    held_out = []
    if call.X_val is not None:
        columns = {"y": call.y_val, "sample_weight": call.sample_weight_val}
        held_out = partitions(call.X_val, columns, "_val")
    with _without_slot(), closing(_Placed(client, train, held_out)) as placed:
        outcome = _outcome_on(client, estimator, call, placed)
    for message, category in outcome.warnings:
        warn_user(message, category)
    return outcome.estimator


@contextmanager
def _without_slot() -> Iterator[None]:
    """Let a fit that itself runs in a Dask task free its slot for the tasks that it waits for."""
    is_task = hasattr(thread_state, "execution_state")
    if is_task:
        secede()
    try:
        yield
    finally:
        if is_task:
            rejoin()


def _outcome_on(client: Client, estimator: Any, call: Call, placed: "_Placed") -> ranks.Outcome:
    """Run a fit with the workers that hold the data as ranks."""
    _warn_of_open_connections(client)
    given = Call(None, classes=call.classes, incremental=call.incremental)
    fit, hosts = f"sknn_deep-{uuid4().hex}", tuple(map(_host, placed.workers))
    with _known_on(client, fit, placed.workers) as kept:
        (port,) = client.run(ranks.open_store, fit, hosts[0], workers=placed.workers[:1]).values()
        plan = ranks.Plan(fit, 0, hosts, port, given, _has_checkpoint(estimator))
        sent = client.scatter(estimator, workers=placed.workers, broadcast=True, hash=False)
        kept.append(sent)
        plans = [replace(plan, rank=rank) for rank in range(len(hosts))]
        futures = [
            client.submit(
                ranks.be_rank,
                plans[rank],
                sent,
                placed.train[rank],
                placed.held_out[rank],
                workers=[worker],
                allow_other_workers=False,
                pure=False,
                key=plans[rank].key,
            )
            for rank, worker in enumerate(placed.workers)
        ]
        kept += futures
        return _outcome(client, fit, futures, placed.workers)


class _Placed:
    """Partitions in the memory of workers.

    Attributes
    ----------
    workers : list of str
        Addresses of the workers that hold training rows, in the order of the rows.
    train, held_out : list of list of (int, Future)
        The partitions of each worker, with their numbers; empty ones are left out.
    """

    def __init__(self, client: Client, train: list[Any], held_out: list[Any]):
        futures: list[Future] = client.compute([*train, *held_out])
        try:
            wait(futures)
            n_rows = np.array(client.gather(client.map(_n_rows, futures, pure=False)))
        except BaseException:
            for future in futures:  # otherwise a stored traceback would keep them alive
                future.release()
            raise
        holders = client.who_has(futures)
        self.workers: list[str] = []
        self.train: list[list[tuple[int, Future]]] = []
        load: dict[str, int] = {}
        for number, future in enumerate(futures[: len(train)]):
            if n_rows[number]:
                worker = min(holders[future.key], key=lambda address: load.get(address, 0))
                load[worker] = load.get(worker, 0) + int(n_rows[number])
                if worker not in self.workers:
                    self.workers.append(worker)
                    self.train.append([])
                self.train[self.workers.index(worker)].append((number, future))
        if not self.workers:
            raise ValueError(f"X has no rows in {counted(len(train), 'partition')}.")
        self.held_out: list[list[tuple[int, Future]]] = [[] for _ in self.workers]
        for number, future in enumerate(futures[len(train) :]):
            if n_rows[len(train) + number]:
                own = [w for w in holders[future.key] if w in self.workers]
                # held-out rows on a worker without training rows go to one that has some
                rank = self.workers.index(own[0]) if own else number % len(self.workers)
                self.held_out[rank].append((number, future))
        if held_out and not any(self.held_out):
            raise ValueError(f"X_val has no rows in {counted(len(held_out), 'partition')}.")

    def close(self) -> None:
        """Release the partitions, unless the user keeps them."""
        for _, future in chain(*self.train, *self.held_out):
            future.release()


def _n_rows(part: dict[str, Any]) -> int:
    return int(part["X"].shape[0])


def _host(address: str) -> str:
    """Return the host on which a worker listens; the local one for a worker in this process."""
    return "127.0.0.1" if address.startswith("inproc") else str(get_address_host(address))


def _has_checkpoint(estimator: Any) -> bool:
    return any(isinstance(unnamed(c), TrainingCheckpoint) for c in estimator.callbacks or [])


def _warn_of_open_connections(client: Client) -> None:
    """Warn of the connections that a scheduler with TLS does not encrypt."""
    scheduler: Any = client.scheduler
    if str(scheduler.address).startswith("tls:"):
        warn_user(
            "This cluster's connections are encrypted, but those by which the workers add up their "
            "gradients and tell each other y are not: train where nobody else is in the network."
        )


@contextmanager
def _known_on(client: Client, fit: str, workers: list[str]) -> Iterator[list[Future]]:
    """Register a fit on the workers for a block, which lists its futures; stop it on an error."""
    kept: list[Future] = []
    try:
        yield kept
    except BaseException:
        _tell(client, ranks.stop, fit, workers)
        raise
    finally:
        for future in kept:  # otherwise a stored traceback would keep them alive
            future.release()
        _tell(client, ranks.forget, fit, workers)


def _tell(client: Client, function: Any, fit: str, workers: list[str]) -> None:
    if client.status != "running":
        return  # the scheduler cancels its tasks
    present = [worker for worker in workers if worker in client.nthreads()]
    if present:
        client.run(function, fit, workers=present, on_error="ignore")


def _outcome(client: Client, fit: str, futures: list[Future], workers: list[str]) -> ranks.Outcome:
    """Wait for the ranks; return the outcome of the first.

    Raises
    ------
    RuntimeError
        If a worker is lost. Errors of a rank are raised as they are.
    """
    results: dict[int, Any] = {}
    while len(results) < len(futures):
        _wait_for_one(futures)
        if client.status != "running":
            raise RuntimeError(
                f"client={client!r} was closed during the fit. Nothing was learned; the workers "
                "stop. Call fit again with a client that is connected."
            )
        for rank, future in enumerate(futures):
            if future.status == "finished" and rank not in results:
                results[rank] = future.result()
        has_failed = any(future.status not in ("pending", "finished") for future in futures)
        is_deserted = any(isinstance(result, ranks.Deserted) for result in results.values())
        if has_failed or is_deserted or _lost(client, workers):
            _tell(client, ranks.stop, fit, workers)
            _end(client, futures)
            raise _reason(client, futures, workers)
    return results[0]


def _wait_for_one(futures: list[Future]) -> None:
    """Wait for a short time, or until another rank is done."""
    pending = [future for future in futures if future.status == "pending"]
    with suppress(TimeoutError, FuturesCancelledError):  # their status shows a cancellation
        wait(pending, timeout=_LOOK, return_when="FIRST_COMPLETED")


def _end(client: Client, futures: list[Future]) -> None:
    """Wait for ranks that have been stopped; cancel those that will never finish."""
    end = time.monotonic() + _STOPPING
    while any(future.status == "pending" for future in futures) and time.monotonic() < end:
        if _are_all_waiting(client, futures):
            break
        _wait_for_one(futures)
    client.cancel([future for future in futures if future.status == "pending"])


def _are_all_waiting(client: Client, futures: list[Future]) -> bool:
    """Return whether all unfinished ranks wait for a worker that is gone, and none runs."""
    pending = [future for future in futures if future.status == "pending"]
    running = {key for keys in client.processing().values() for key in keys}
    return not any(future.key in running for future in pending)


def _reason(client: Client, futures: list[Future], workers: list[str]) -> BaseException:
    """Return the error that explains best why a fit has failed."""
    errors: list[Any] = [future.exception() for future in futures if future.status == "error"]
    end = time.monotonic() + (0 if errors else _NOTICING)
    lost = _lost(client, workers)
    while not lost and time.monotonic() < end:
        time.sleep(_LOOK)
        lost = _lost(client, workers)
    if lost:
        return RuntimeError(
            f"{len(lost)} of the {counted(len(workers), 'worker')} that trained together "
            f"{'was' if len(lost) == 1 else 'were'} lost: {', '.join(lost)}. Nothing was learned. "
            "See its log, which may tell of too little memory, and call fit again: the partitions "
            "are then computed on those that are left. With a TrainingCheckpoint among callbacks, "
            "on a path that all workers see, the training goes on from its last epoch."
        )
    if errors:
        return errors[0]
    reasons = [future.result().reason for future in futures if future.status == "finished"]
    return RuntimeError(
        f"The workers {', '.join(workers)} have lost each other, but all are there: "
        f"{reasons or 'a task was cancelled'}. They must reach each other on any port."
    )


def _lost(client: Client, workers: list[str]) -> list[str]:
    present = client.nthreads()
    return [worker for worker in workers if worker not in present]
