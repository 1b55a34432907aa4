"""In how many digits an accelerator multiplies numbers in single precision."""

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
    """Let products on a device have this precision for a block.

    torch has one setting for the process. It is restored when the last of the blocks ends that run
    at a time in several threads; where these differ, the one that began last decides.

    Parameters
    ----------
    precision : {"highest", "high"} or None
        "high" is TF32 where the device has it: ten binary digits after the point in place of 23.
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
    """Return what sets torch to what it is set to now."""
    try:
        return partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    except RuntimeError:  # as it is where the newer attribute has been set
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
