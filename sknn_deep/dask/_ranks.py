"""The worker's side of a fit: one of the ranks that train together, on its own partitions.

The ranks of a fit form their own process group, not torch's default one, so a worker can take part
in several fits at once. They listen at the address by which Dask knows their worker. A rank that
waits for another checks every second whether the client has stopped the fit or is gone, so that no
rank waits forever for one that is lost or has failed.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import torch.distributed as dist
from dask.dataframe.dispatch import concat
from distributed import get_worker, secede
from torch import Tensor

from sknn_deep._engine.divided_rows import DividedTable
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.table_columns import names_of
from sknn_deep._hardware.ranks import Ranks, training_together
from sknn_deep._hardware.threads import fixed_threads
from sknn_deep._user_warnings import collected_warnings
from sknn_deep._wording import counted

# How long a rank waits for another, which may take longer to validate its data, and how often it
# checks meanwhile whether the fit was stopped.
_PATIENCE, _LOOK = timedelta(minutes=30), timedelta(seconds=1)


class FitStoppedError(RuntimeError):
    """The client has stopped the fit because a rank is lost or has failed."""


class PeerLostError(RuntimeError):
    """Another rank does not answer."""


# Stop events and stores of the fits in this process, by the name of the fit.
_stops: dict[str, Event] = {}
_stores: dict[str, Any] = {}
# Process groups that this process has abandoned while waiting.
_abandoned: list[Any] = []


def open_store(fit: str, host: str) -> int:
    """Open the store by which the ranks of a fit find each other; return its port."""
    _stores[fit] = dist.TCPStore(host, 0, None, is_master=True, wait_for_workers=False)
    return _stores[fit].port


def stop(fit: str) -> None:
    """Make the rank of a fit in this process raise an error, even if it has not started yet."""
    _stops.setdefault(fit, Event()).set()


def forget(fit: str) -> None:
    """Release what is kept for a fit."""
    _stops.pop(fit, None)
    _stores.pop(fit, None)


class WorkerRanks(Ranks):
    """The ranks of one fit, seen from one of them.

    Parameters
    ----------
    store : Store
        Store by which the ranks find each other.
    rank, size : int
    host : str
        Host on which this rank listens.
    is_stopped : callable
        Returns whether the fit was stopped.
    """

    def __init__(self, store: Any, rank: int, size: int, host: str, is_stopped: Callable[[], bool]):
        super().__init__(rank, size)
        gloo: Any = dist.ProcessGroupGloo  # its type stubs are incomplete
        options = gloo._Options()
        options._timeout = _PATIENCE
        options._devices = [gloo.create_device(hostname=host)]
        self._group: Any = gloo(store, rank, size, options)
        self._is_stopped = is_stopped

    def close(self) -> None:
        """Leave the group; ranks that wait for this one then get an error."""
        self._group = None

    def begin_to_add_(self, tensor: Tensor) -> Callable[[], None]:
        self._check()
        return partial(self._wait, self._group.allreduce([tensor]))

    def copy_first_(self, tensor: Tensor) -> Tensor:
        return self._copy_(tensor, 0)

    def first(self, value: Any) -> Any:
        sent = _packed(value if self.rank == 0 else None)
        length = self.copy_first_(torch.tensor([len(sent)]))
        if self.rank:
            sent = torch.empty(int(length), dtype=torch.uint8)
        self.copy_first_(sent)
        return value if self.rank == 0 else _unpacked(sent)

    def collected(self, value: Any) -> list[Any]:
        sent = _packed(value)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(sent)
        found = []
        # one after the other: gathered together, all would be padded to the longest
        for rank, length in enumerate(self.add_(lengths).tolist()):
            own = sent if rank == self.rank else torch.empty(length, dtype=torch.uint8)
            self._copy_(own, rank)
            found.append(value if rank == self.rank else _unpacked(own))
        return found

    def _copy_(self, tensor: Tensor, rank: int) -> Tensor:
        """Overwrite a tensor with that of a rank."""
        self._check()
        self._wait(self._group.broadcast(tensor, root=rank))
        return tensor

    def _check(self) -> None:
        if self._is_stopped():
            raise FitStoppedError("The fit was stopped.")

    def _wait(self, work: Any) -> None:
        """Wait for the others; raise an error if one is gone or the fit was stopped."""
        while True:
            try:
                work.wait(_LOOK)
                return
            except RuntimeError as error:
                if work.is_completed():
                    break
                if self._is_stopped():
                    # destroying the group would block until a silent rank answers
                    _abandoned.append(self._group)
                    raise FitStoppedError("The fit was stopped.") from error
        try:
            work.wait()  # it may have finished just after the last check
        except RuntimeError as error:
            raise PeerLostError(str(error)) from error


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(cloudpickle.dumps(value, protocol=5)), dtype=torch.uint8)


def _unpacked(sent: Tensor) -> Any:
    return cloudpickle.loads(sent.numpy().tobytes())


@dataclass(frozen=True)
class Plan:
    """The task of a rank.

    Attributes
    ----------
    fit : str
        The name of the fit.
    rank : int
    hosts : tuple of str
        Hosts of the ranks, by rank.
    port : int
        Port of the first rank's store.
    given : Call
        Arguments that are the same on all ranks: ``incremental`` and ``classes``.
    has_checkpoint : bool
    """

    fit: str
    rank: int
    hosts: tuple[str, ...]
    port: int
    given: Call
    has_checkpoint: bool

    @property
    def key(self) -> str:
        """Key of the rank's task in Dask."""
        return f"{self.fit}-{self.rank}"


@dataclass(frozen=True)
class Outcome:
    """The result of the first rank.

    Attributes
    ----------
    estimator : estimator
        Fitted.
    warnings : list of (str, type)
    """

    estimator: Any
    warnings: list[tuple[str, type[Warning]]]


@dataclass(frozen=True)
class Deserted:
    """The result of a rank that could not continue because another was lost or the fit was stopped.

    Attributes
    ----------
    reason : str
    """

    reason: str


Part = dict[str, Any]
# A partition and its number.
Numbered = tuple[int, Part]


def be_rank(
    plan: Plan, estimator: Any, train: Sequence[Numbered], held_out: Sequence[Numbered]
) -> Outcome | Deserted | None:
    """Fit as one of the ranks; return the outcome on the first.

    Parameters
    ----------
    plan : Plan
    estimator : estimator
        An estimator without Dask. It is not changed.
    train, held_out : sequence of (int, dict)
        The partitions of this rank, with their numbers: dicts of rows by argument name.
    """
    try:
        return _fit(plan, estimator, train, held_out)
    except (FitStoppedError, PeerLostError) as error:
        return Deserted(str(error))  # the client finds the cause on another rank


def _fit(
    plan: Plan, estimator: Any, train: Sequence[Numbered], held_out: Sequence[Numbered]
) -> Outcome | None:
    secede()  # otherwise two simultaneous fits would wait for each other's slots
    ranks = _joined_group(plan)
    estimator = _twin(estimator)
    with (
        closing(ranks),
        fixed_threads(get_worker().state.nthreads),
        training_together(ranks),
        collected_warnings() as found,
    ):
        call = _call(plan, ranks, train, held_out)
        estimator._fit_networks(call)
    return None if plan.rank else Outcome(estimator, list(found))


def _joined_group(plan: Plan) -> WorkerRanks:
    stop, tasks, key = _stops.setdefault(plan.fit, Event()), get_worker().state.tasks, plan.key

    def is_stopped() -> bool:
        # a lost client sends no stop, but the scheduler cancels its tasks
        task = tasks.get(key)  # read once: another thread may remove it
        return stop.is_set() or task is None or task.state == "cancelled"

    store = _stores.get(plan.fit) if plan.rank == 0 else None
    if store is None:
        store = dist.TCPStore(plan.hosts[0], plan.port, None, is_master=False)
    size = len(plan.hosts)
    # if a rank never joins, the client detects it
    return WorkerRanks(store, plan.rank, size, plan.hosts[plan.rank], is_stopped)


def _twin(estimator: Any) -> Any:
    """Return a copy: Dask may pass the same object to several tasks."""
    twin: Any = cloudpickle.loads(cloudpickle.dumps(estimator))
    return twin


def _call(
    plan: Plan, ranks: Ranks, train: Sequence[Numbered], held_out: Sequence[Numbered]
) -> Call:
    """Return the arguments of ``fit`` on this rank: its own rows, all targets and all weights."""
    own = _table(plan, ranks, train, None)
    given: dict[str, Any] = {"X": own, **_columns_of_all(ranks, train)}
    if any(ranks.collected(bool(held_out))):
        given["X_val"] = _table(plan, ranks, held_out, own.own)
        columns = _columns_of_all(ranks, held_out)
        given |= {f"{name}_val": values for name, values in columns.items()}
    return replace(plan.given, **given)


def _table(plan: Plan, ranks: Ranks, parts: Sequence[Numbered], example: Any) -> DividedTable:
    """Return the rows of this rank; if it has none, an example row with their types."""
    _check_columns(ranks, parts)
    lengths = [(number, part["X"].shape[0], ranks.rank) for number, part in parts]
    of_all = sorted(sum(ranks.collected(lengths), []))
    owners = np.repeat([rank for *_, rank in of_all], [length for _, length, _ in of_all])
    digest = None
    if plan.has_checkpoint:
        known = [(number, _digest(part["X"])) for number, part in parts]
        texts = [text for _, text in sorted(sum(ranks.collected(known), []))]
        digest = np.frombuffer("".join(texts).encode(), dtype=np.uint8)
    rows = [part["X"] for _, part in parts]
    own = _concatenated(rows) if rows else example[:1]
    return DividedTable(own, owners.astype(np.uint16), ranks, digest)


def _check_columns(ranks: Ranks, parts: Sequence[Numbered]) -> None:
    """Refuse partitions whose columns differ, on all ranks."""
    own: dict[str, int] = {}
    for number, part in parts:
        names = names_of(part["X"])
        kind = f"rows of shape {part['X'].shape[1:]}" if names is None else f"the columns {names}"
        own.setdefault(kind, number)
    first: dict[str, int] = {}
    for number, kind in sorted((n, kind) for of in ranks.collected(own) for kind, n in of.items()):
        first.setdefault(kind, number)
    if len(first) > 1:
        (one, i), (other, j), *_ = first.items()
        raise ValueError(
            f"Partition {i} of X has {one}, and partition {j} has {other}; all must have the same "
            "columns, in the same order."
        )


def _columns_of_all(ranks: Ranks, parts: Sequence[Numbered]) -> dict[str, np.ndarray]:
    """Return targets, weights and groups of all rows."""
    own: list[tuple[int, dict[str, np.ndarray]]] = []
    for number, part in parts:
        n_rows = part["X"].shape[0]
        columns = {name: np.asarray(rows) for name, rows in part.items() if name != "X"}
        for name, column in columns.items():
            if len(column) != n_rows:
                raise ValueError(
                    f"Partition {number} of X has {counted(n_rows, 'row')}, and that of {name} "
                    f"has {len(column)}: divide both alike, such as by y.rechunk or repartition."
                )
        own.append((number, columns))
    of_all = [columns for _, columns in sorted(sum(ranks.collected(own), []), key=lambda n: n[0])]
    return {name: np.concatenate([part[name] for part in of_all]) for name in of_all[0]}


def _concatenated(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], pd.DataFrame):
        return concat(parts, ignore_index=True)  # Dask's concat unites categories
    if sp.issparse(parts[0]):
        return sp.vstack(parts, format="csr")
    return np.concatenate(parts)


def _digest(part: Any) -> str:
    """Return a hash of a partition that does not depend on the worker."""
    if isinstance(part, pd.DataFrame):
        part = pd.util.hash_pandas_object(part, index=False).to_numpy()
    return hashlib.sha256(joblib.hash(part).encode()).hexdigest()
