"""Arrays of other libraries, where scikit-learn's ``array_api_dispatch`` is on.

They are read in place: arrays on the host through NumPy without a copy, arrays on an accelerator as
tensors that never leave it. Arrays that an estimator returns or has learned are converted back to
the same library and device. Within the package, all arrays are NumPy arrays or torch tensors.
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
# DLPack device types of arrays in host memory: plain, and pinned for CUDA or ROCm.
_ON_HOST = (1, 3, 11)


@dataclass(frozen=True)
class Home:
    """The library and the device of a call's arrays.

    Attributes
    ----------
    namespace : module
    device : object
        In the library's own representation.
    """

    namespace: Any
    device: Any

    def bring(self, array: np.ndarray | Tensor) -> Any:
        """Return an array of this library on this device; strings stay NumPy arrays."""
        if isinstance(array, np.ndarray):
            if array.dtype.kind not in "biufc":
                return array
            array = array if array.flags.writeable else array.copy()
        return move_to(array, xp=self.namespace, device=self.device)


def home_of(X: Any) -> Home | None:
    """Return library and device of an array that scikit-learn dispatches on; None for all else."""
    if isinstance(X, np.ndarray) or not is_array(X):
        return None
    namespace, dispatches, device = namespace_and_device(X)
    return Home(namespace, device) if dispatches else None


def is_array(X: Any) -> bool:
    """Return whether X is an array of any library."""
    return isinstance(X, Tensor) or hasattr(X, "__array_namespace__")


def taken_in(X: Any) -> Any:
    """Convert an array of another library to NumPy, or to a tensor on its accelerator."""
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
    """Convert an array of another library to NumPy on the host; return anything else unchanged."""
    array = taken_in(array)
    return array.cpu().numpy() if isinstance(array, Tensor) else array


def call_taken_in(call: Call) -> Call:
    """Return a call whose features stay on their device; everything else moves to the host."""
    given = {name: value for name, value in vars(call).items() if home_of(value) is not None}
    if not given:
        return call
    stay = ("X", "X_val")
    return replace(call, **{n: taken_in(v) if n in stay else as_numpy(v) for n, v in given.items()})


def where_it_is(X: Any) -> AbstractContextManager:
    """Return a context in which torch's current device is that of a tensor."""
    return on_device(X.device) if isinstance(X, Tensor) else nullcontext()


def keeps_namespace(method: Method) -> Method:
    """Decorate a method of X: convert the arrays it returns to X's library and device."""

    @wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        # for a single row, the cost of every call matters
        if type(X) is np.ndarray or (home := home_of(X)) is None:
            return method(self, X, *args, **kwargs)
        result = method(self, taken_in(X), *args, **kwargs)
        return tuple(map(home.bring, result)) if type(result) is tuple else home.bring(result)

    return wrapper  # type: ignore[return-value]  # has the same signature


def through_numpy(method: Method) -> Method:
    """Decorate a NumPy-only method of X: convert X to NumPy and the returned arrays back."""

    @wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        # for a single row, the cost of every call matters
        if type(X) is np.ndarray or (home := home_of(X)) is None:
            return method(self, X, *args, **kwargs)
        return home.bring(method(self, as_numpy(X), *args, **kwargs))

    return wrapper  # type: ignore[return-value]  # has the same signature


def by_torch(function: Callable[[Tensor], Tensor], array: Any) -> Any:
    """Apply a torch function to a tensor, or to a NumPy array without copying it.

    Small arrays use one thread: even the softmax of two rows would wake all of torch's threads,
    which takes milliseconds if they sleep.
    """
    if isinstance(array, Tensor):
        return function(array)
    wakes_none = torch.get_num_threads() == 1 or len(array) == 1
    is_large = threads_of_outputs(n_elements=array.size) > 1
    with nullcontext() if wakes_none or is_large else one_thread():
        return function(torch.from_numpy(array)).numpy()


def like(array: np.ndarray, other: Any) -> Any:
    """Return a NumPy array, converted to another's type and device if that is a tensor."""
    return torch.from_numpy(array).to(other) if isinstance(other, Tensor) else array


class LearnedArray:
    """An array attribute, stored in NumPy and read in the library of the fitted X."""

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
