"""The precision of an accelerator's matrix products in single precision."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

_lock = threading.Lock()
_n_inside = 0
_restore: Callable[[], object]


@contextmanager
def float32_products(precision: str | None, device: torch.device) -> Iterator[None]:
    """Set the precision of products on a device for a block.

    torch has one setting per process. If blocks overlap in several threads, the setting is restored
    when the last of them ends; if they differ, the one that began last takes precedence.

    Parameters
    ----------
    precision : {"highest", "high"} or None
        "high" is TF32 if the device has it: ten mantissa bits instead of 23.
        None leaves the setting alone.
    device : torch.device
    """
    global _n_inside, _restore
    if precision is None or device.type == "cpu":
        yield
        return
    with _lock:
        if _n_inside == 0:
            _restore = _present_setting()
        _n_inside += 1
        _set(precision)
    try:
        yield
    finally:
        with _lock:
            _n_inside -= 1
            if _n_inside == 0:
                _restore()


def _present_setting() -> Callable[[], object]:
    """Return a function that restores torch's current setting."""
    try:
        return partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    except RuntimeError:  # raised if the newer attribute has been set
        cuda = torch.backends.cuda.matmul
        return partial(setattr, cuda, "fp32_precision", cuda.fp32_precision)


def _set(precision: str) -> None:
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:
        names = {"highest": "ieee", "high": "tf32"}
        torch.backends.cuda.matmul.fp32_precision = names[precision]
    else:
        torch.set_float32_matmul_precision(precision)
