"""Input layers for the categories of a table, given as codes 0, 1 and so on.

A code of -1, or one beyond those of the training data, stands for an unseen category.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.products import Program
from sknn_deep._networks.inputs import BoundInput, InputLayer

# Initial standard deviation of category vectors: about that of a one-hot code of nine categories.
_DEVIATION = 0.35


class Indicators(InputLayer):
    """One-hot codes: for each category an indicator that is 1 in its rows and 0 in others.

    Input (batch, n_features), output (batch, sum of the numbers of categories).

    Parameters
    ----------
    columns : sequence of (int, int)
        The columns that hold codes, and the number of categories of each.
    dtype, device
        Type and device of the buffers.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.category_inputs import Indicators
    >>> Indicators([(0, 2), (1, 3)])(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    tensor([[0., 1., 1., 0., 0.],
            [1., 0., 0., 0., 0.]])
    """

    columns: Tensor
    codes: Tensor

    def __init__(
        self,
        columns: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.n_inputs = sum(n for _, n in columns)
        numbers = [column for column, n in columns for _ in range(n)]
        codes = [code for _, n in columns for code in range(n)]
        self.register_buffer("columns", torch.tensor(numbers, device=device), False)
        self.register_buffer("codes", torch.tensor(codes, dtype=dtype, device=device), False)

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        pairs = zip(self.columns.tolist(), self.codes.int().tolist(), strict=True)
        return [f"{features[j]}_{values[j][code]}" for j, code in pairs]

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, self.columns] == self.codes).to(x.dtype)

    def write(self, x: Tensor, out: Tensor) -> None:
        torch.eq(x.index_select(1, self.columns), self.codes, out=out)


class CategoryVectors(InputLayer):
    """Learned embeddings of categories [1]_.

    Input (batch, n_features), output (batch, n_columns * size).

    Parameters
    ----------
    columns : sequence of (int, int)
        The columns that hold codes, and the number of categories of each.
    size : int
        Length of the vectors.
    dtype, device
        Type and device of parameters and buffers.

    References
    ----------
    .. [1] C. Guo, F. Berkhahn (2016). Entity embeddings of categorical variables.
       arXiv:1604.06737.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.category_inputs import CategoryVectors
    >>> CategoryVectors([(0, 20), (1, 30)], size=4)(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    columns: Tensor
    first: Tensor
    last: Tensor

    def __init__(
        self,
        columns: Sequence[tuple[int, int]],
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.n_inputs = len(columns) * size
        # the first vector of each column is that of unseen categories
        n_vectors = np.array([n + 1 for _, n in columns])
        last = np.cumsum(n_vectors) - 1
        for name, numbers in (
            ("columns", [column for column, _ in columns]),
            ("first", last - n_vectors + 1),
            ("last", last),
        ):
            self.register_buffer(name, torch.tensor(np.array(numbers), device=device), False)
        shape = (int(n_vectors.sum()), size)
        self.vectors = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))

    def initialize(self, random_state: np.random.RandomState) -> None:
        with torch.no_grad():
            drawn = random_state.normal(0.0, _DEVIATION, self.vectors.shape)
            self.vectors.copy_(torch.from_numpy(drawn))
            self.vectors[self.first] = 0.0  # the mean of the others

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        size = self.vectors.shape[1]
        return [f"{features[j]}_{i}" for j in self.columns.tolist() for i in range(size)]

    def vectors_to_decay(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [parameters["vectors"]]

    def forward(self, x: Tensor) -> Tensor:
        return self.vectors[self._rows_of(x)].flatten(1)

    def kernels(self, own: BoundInput, x: Tensor, out: Tensor) -> Program:
        return [partial(self._write, own.parameters["vectors"], x, out)]

    def gradient_kernels(self, own: BoundInput, x: Tensor, delta: Tensor) -> Program:
        return [partial(self._write_gradient, own.gradients["vectors"], x, delta)]

    def _rows_of(self, x: Tensor) -> Tensor:
        """Return the index of each code's vector, shape (batch, n_columns)."""
        rows = x.index_select(1, self.columns).long() + (self.first + 1)
        is_known = (rows > self.first) & (rows <= self.last)
        return torch.where(is_known, rows, self.first)

    def _write(self, vectors: Tensor, x: Tensor, out: Tensor) -> None:
        out.copy_(vectors[self._rows_of(x)].flatten(1))

    def _write_gradient(self, gradient: Tensor, x: Tensor, delta: Tensor) -> None:
        rows = self._rows_of(x).flatten()
        gradient.zero_().index_add_(0, rows, delta.reshape(len(rows), -1))


def indicator_slices(n_columns: int, categories: Sequence[int]) -> list[slice]:
    """Return the slices of each column's indicators, which are the last of ``n_columns``.

    Examples
    --------
    >>> from sknn_deep._networks.category_inputs import indicator_slices
    >>> indicator_slices(7, [3, 2])
    [slice(2, 5, None), slice(5, 7, None)]
    """
    starts = accumulate(categories, initial=n_columns - sum(categories))
    return [slice(*bounds) for bounds in pairwise(starts)]
