"""Rows that are already on an accelerator: they stay there, and the host receives only sums."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.encoded_rows import TableEncoding
from sknn_deep._engine.features import Features, slices
from sknn_deep._hardware.device import numpy_dtype

# Sums are computed over double-precision copies of at most this many numbers at a time.
_NUMBERS = 2**24


class DeviceRows(Features):
    """A tensor on an accelerator, in the network's input type.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_features)
    gives_tensors : bool, default=False
        Whether results computed for these rows stay on a device.
    is_encoded : bool, default=False
        Whether the numbers are already scaled.
    """

    kind = "device "

    def __init__(self, X: Tensor, gives_tensors: bool = False, *, is_encoded: bool = False):
        super().__init__((X.shape[0], X.shape[1]), numpy_dtype(X.dtype))
        self._X, self.gives_tensors, self.is_encoded = X, gives_tensors, is_encoded

    @property
    def nbytes(self) -> int:
        return self._X.nbytes

    @property
    def device(self) -> torch.device:
        """The device that holds the rows."""
        return self._X.device

    def read(self, part: slice) -> np.ndarray:
        return self._X[part].cpu().numpy()

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        out.copy_(self._rows(rows))

    def take(self, rows: np.ndarray) -> "DeviceRows":
        return DeviceRows(self._rows(rows), is_encoded=self.is_encoded)

    def _rows(self, rows: np.ndarray) -> Tensor:
        return self._X.index_select(0, torch.from_numpy(rows).to(self.device))

    def to(self, part: slice, device: torch.device, dtype: torch.dtype) -> Tensor:
        return self._X[part].to(device, dtype)

    def resident(
        self, device: torch.device, dtype: torch.dtype, most_bytes: float
    ) -> Tensor | None:
        if (self.device, self._X.dtype) == (device, dtype):
            return self._X
        return super().resident(device, dtype, most_bytes)

    def encoded(self, encoding: TableEncoding) -> "DeviceRows":
        """Return the same rows with scaled numbers."""
        return DeviceRows(encoding.encode_numbers(self._X), self.gives_tensors, is_encoded=True)

    def unwrapped(self) -> Tensor:
        return self._X

    def is_known(self, allow_nan: bool) -> bool:
        """Return whether no number is infinite, or NaN unless that is allowed."""
        are_fine = self._X.isinf().logical_not_() if allow_nan else self._X.isfinite()
        return bool(are_fine.all())

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows in double precision, in pieces."""
        for part in slices(len(self), max(1, _NUMBERS // self.shape[1])):
            yield part, self._X[part].double()

    def weighted_sums(self, weight: np.ndarray | None) -> np.ndarray:
        weight = np.ones(len(self)) if weight is None else weight
        weights = torch.from_numpy(weight).to(self.device, torch.float64)
        return np.sum([(weights[part] @ X).cpu().numpy() for part, X in self._parts()], axis=0)

    def column_limits(self) -> tuple[np.ndarray, np.ndarray]:
        missing = self._X.isnan()
        low = self._X.masked_fill(missing, torch.inf).amin(dim=0)
        high = self._X.masked_fill(missing, -torch.inf).amax(dim=0)
        never = missing.all(dim=0)
        both = torch.stack([low, high]).masked_fill_(never, torch.nan).cpu().numpy()
        return both[0], both[1]

    def limits(self) -> tuple[float, float]:
        low, high = self.column_limits()
        return float(np.fmin.reduce(low)), float(np.fmax.reduce(high))
