"""Arrays of other libraries, where scikit-learn's ``array_api_dispatch`` is on.

They are read where they are: those of the host through NumPy without a copy, those of an
accelerator as tensors that never leave it. What an estimator returns comes back as an array of the
same library on the same device, and so do the arrays that it has learned. Within the package there
are arrays of NumPy and torch's tensors only.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sknn_deep._estimators.call import Call
from sknn_deep._hardware.device import on_device
from sknn_deep._hardware.pace import threads_of_outputs
from sknn_deep._hardware.threads import one_thread
from sknn_deep._sklearn import move_to, namespace_and_device

Method = TypeVar("Method", bound=Callable[..., Any])
# Of arrays in the host's memory, by the protocol's numbers: plain, and pinned for CUDA or ROCm.
_ON_HOST = (1, 3, 11)


@dataclass(frozen=True)
class Home:
    """Where the arrays of a call are.

    Attributes
    ----------
    namespace : module
    device : object
        As the library calls it.
    """

    namespace: Any
    device: Any

    def bring(self, array: np.ndarray | Tensor) -> Any:
        """Return an array of this library on this device; texts remain NumPy's."""
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "biufc":
                return array
            array = array if array.flags.writeable else array.copy()
        return move_to(array, xp=self.namespace, device=self.device)


def home_of(X: Any) -> Home | None:
    """Return where an array is that scikit-learn is to dispatch on; None for all else."""
    if isinstance(X, np.ndarray) or not is_array(X):
        return None
    namespace, dispatches, device = namespace_and_device(X)
    return Home(namespace, device) if dispatches else None


def is_array(X: Any) -> bool:
    """Return whether X is an array of whatever library."""
    return isinstance(X, Tensor) or hasattr(X, "__array_namespace__")


def taken_in(X: Any) -> Any:
    """Return an array of another library as one of NumPy, or as a tensor on its accelerator."""
    if home_of(X) is None:
        return X
    if not isinstance(X, Tensor):
        if X.__dlpack_device__()[0] in _ON_HOST:
            return move_to(X, xp=np, device="cpu")
        X = torch.from_dlpack(X)
    X = X.detach()
    if X.device.type != "cpu":
        return X
    return (X.float() if X.dtype is torch.bfloat16 else X).numpy()


def as_numpy(array: Any) -> Any:
    """Return an array of another library in the host's memory; all else as it is."""
    array = taken_in(array)
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def call_taken_in(call: Call) -> Call:
    """Return a call with its features where they are, and all else on the host."""
    given = {name: value for name, value in vars(call).items() if home_of(value) is not None}
    if not given:
        return call
    stay = ("X", "X_val")
    return replace(call, **{n: taken_in(v) if n in stay else as_numpy(v) for n, v in given.items()})


def where_it_is(X: Any) -> AbstractContextManager:
    """Return a context in which torch's current device is that of a tensor."""
    return on_device(X.device) if isinstance(X, Tensor) else nullcontext()


def keeps_namespace(method: Method) -> Method:
    """Decorate a method of X that returns arrays: they come back to where X is."""

    @wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        # of one row every call counts
        if type(X) is np.ndarray or (home := home_of(X)) is None:
            return method(self, X, *args, **kwargs)
        result = method(self, taken_in(X), *args, **kwargs)
        return tuple(map(home.bring, result)) if type(result) is tuple else home.bring(result)

    return wrapper  # type: ignore[return-value]  # of the same signature


def through_numpy(method: Method) -> Method:
    """Decorate a method of X that is written for NumPy: its arrays come back to where X is."""

    @wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        # of one row every call counts
        if type(X) is np.ndarray or (home := home_of(X)) is None:
            return method(self, X, *args, **kwargs)
        return home.bring(method(self, as_numpy(X), *args, **kwargs))

    return wrapper  # type: ignore[return-value]  # of the same signature


def by_torch(function: Callable[[Tensor], Tensor], array: Any) -> Any:
    """Apply a function of torch to a tensor, or to an array of NumPy in the same memory.

    The softmax of two rows would wake all of torch's threads, which takes milliseconds where they
    sleep.
    """
    if isinstance(array, Tensor):
        return function(array)
    wakes_none = torch.get_num_threads() == 1 or len(array) == 1
    is_large = threads_of_outputs(n_elements=array.size) > 1
    with nullcontext() if wakes_none or is_large else one_thread():
        return function(torch.from_numpy(array)).numpy()


def like(array: np.ndarray, other: Any) -> Any:
    """Return an array of NumPy, or where another is a tensor one of its type on its device."""
    return torch.from_numpy(array).to(other) if isinstance(other, Tensor) else array


class LearnedArray:
    """An attribute that is an array: NumPy's, seen in the library of the X that was fitted."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        if estimator is None:
            return self
        own = vars(estimator)
        if self._name not in own:
            raise AttributeError(f"{type(estimator).__name__!r} has no attribute {self._name!r}")
        home = own.get("_home")
        return own[self._name] if home is None else home.bring(own[self._name])

    def __set__(self, estimator: Any, value: Any) -> None:
        vars(estimator)[self._name] = value

    def __delete__(self, estimator: Any) -> None:
        vars(estimator).pop(self._name)
