r"""The input layer of a table: separate layers for its numbers and its categories.

With learned scales, input :math:`i` is then multiplied by :math:`s_i = 1 + 6 \theta_i`, where
:math:`\theta` starts at zero, so that less useful inputs can be attenuated [1]_. As Adam's steps do
not depend on the size of a gradient, the scales change six times as fast as the weights, as in the
paper.

References
----------
.. [1] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong pre-tuned MLPs
   and boosted trees on tabular data. NeurIPS.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._hardware.products import Program
from sknn_deep._networks.category_inputs import CategoryVectors, Indicators
from sknn_deep._networks.inputs import BoundInput, InputLayer, parameters_of_part
from sknn_deep._networks.number_inputs import EmbeddedNumbers, Numbers, ScaledNumbers

# Factor by which scales change faster than weights.
_SCALES_RATE = 6.0


class TableInput(InputLayer):
    """The network's input for a row of a table: the concatenated outputs of several layers.

    Input (batch, n_features), output (batch, n_inputs).

    Parameters
    ----------
    numbers : sequence of int
        The columns that hold numbers.
    gaps : sequence of int, default=()
        Those of them that have missing values.
    categories : sequence of (int, int), default=()
        The columns that hold codes of categories, and the number of categories of each.
    scaling : {"standard", "robust"} or None, default=None
        Scaling of the numbers, see :class:`Numbers`.
    embedding : {"piecewise_linear", "periodic"} or None, default=None
        Embedding of the numbers, see :class:`EmbeddedNumbers`.
    n_functions, number_size, frequency_scale
        See :class:`EmbeddedNumbers`.
    max_one_hot : int, default=9
        Columns with more categories get learned vectors, others indicators.
    category_size : int, default=8
        Length of these vectors.
    learned_scales : bool, default=False
        Whether each input is multiplied by a learned scale.
    dtype : torch.dtype, default=torch.float32
    device : torch.device, default=None

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.table_input import TableInput
    >>> layer = TableInput([0], categories=[(1, 3)])
    >>> layer(torch.tensor([[0.5, 2.0], [1.5, 0.0]]))
    tensor([[0.5000, 0.0000, 0.0000, 1.0000],
            [1.5000, 1.0000, 0.0000, 0.0000]])
    """

    def __init__(
        self,
        numbers: Sequence[int],
        gaps: Sequence[int] = (),
        categories: Sequence[tuple[int, int]] = (),
        *,
        scaling: str | None = None,
        embedding: str | None = None,
        n_functions: int = 48,
        number_size: int = 8,
        frequency_scale: float = 0.1,
        max_one_hot: int = 9,
        category_size: int = 8,
        learned_scales: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.numbers, self.gaps = list(numbers), list(gaps)
        self.categories = [(column, n) for column, n in categories]
        self.parts = torch.nn.ModuleList()
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        if numbers and embedding is not None:
            sizes = (n_functions, number_size, frequency_scale)
            part = EmbeddedNumbers(numbers, embedding, *sizes, scaling=scaling, **options)
            self.parts.append(part)
        elif numbers:
            self.parts.append(ScaledNumbers(numbers, gaps, scaling=scaling, **options))
        # a column whose categories are all rare has no categories
        few = [column for column in categories if 0 < column[1] <= max_one_hot]
        many = [column for column in categories if column[1] > max_one_hot]
        if few:
            self.parts.append(Indicators(few, **options))
        if many:
            self.parts.append(CategoryVectors(many, category_size, **options))
        self._sizes: list[int] = [layer.n_inputs for layer in self._layers()]
        self.n_inputs = sum(self._sizes)
        if learned_scales:
            self.scales = torch.nn.Parameter(torch.zeros(self.n_inputs, **options))

    def _layers(self) -> Iterator[InputLayer]:
        return (part for part in self.parts if isinstance(part, InputLayer))

    def initialize(self, random_state: np.random.RandomState) -> None:
        for part in self._layers():
            part.initialize(random_state)

    def vectors_to_decay(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [
            vectors
            for i, part in enumerate(self._layers())
            for vectors in part.vectors_to_decay(parameters_of_part(i, parameters))
        ]

    def learn(self, X: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Learn scales and quantiles from training rows, as in :meth:`Numbers.learn`."""
        for part in self.parts:
            if isinstance(part, Numbers):
                part.learn(X, weight)

    @property
    def kept_per_row(self) -> int:
        own = self.n_inputs if self._has_scales else 0
        return own + sum(part.kept_per_row for part in self._layers())

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        """Return a name for each input.

        Parameters
        ----------
        features : sequence of str
        values : dict of list
            The categories of each categorical column.
        """
        return [name for part in self._layers() for name in part.names(features, values)]

    def forward(self, x: Tensor) -> Tensor:
        inputs = torch.cat([part(x) for part in self.parts], dim=1)
        factors = self.factors()
        return inputs if factors is None else inputs * factors

    def factors(self) -> Tensor | None:
        """Return the factors of the inputs, shape (n_inputs,), or None without scales."""
        return 1 + _SCALES_RATE * self.scales if self._has_scales else None

    def kernels(self, own: BoundInput, x: Tensor, out: Tensor) -> Program:
        kernels = [
            kernel for part, rows in self._divided(own, out) for kernel in part.forward(x, rows)
        ]
        if self._has_scales:
            kernels.append(partial(_scale, own.parameters["scales"], self._unscaled(own, out), out))
        return kernels

    def gradient_kernels(self, own: BoundInput, x: Tensor, delta: Tensor) -> Program:
        kernels: Program = []
        if self._has_scales:
            scales = own.parameters["scales"], own.gradients["scales"]
            kernels.append(partial(_scale_gradient, *scales, self._unscaled(own, delta), delta))
        return kernels + [
            kernel
            for part, rows in self._divided(own, delta)
            if part.parameters
            for kernel in part.backward(x, rows)
        ]

    @property
    def _has_scales(self) -> bool:
        return "scales" in self._parameters

    def _unscaled(self, own: BoundInput, rows: Tensor) -> Tensor:
        """Return the buffer that keeps the inputs of a batch before they are scaled."""
        return own.cached(("unscaled", len(rows)), lambda: torch.empty_like(rows))

    def _divided(self, own: BoundInput, rows: Tensor) -> Iterator[tuple[BoundInput, Tensor]]:
        """Yield the bound parts with their columns of rows of shape (batch, n_inputs)."""
        for i, columns in enumerate(rows.split(self._sizes, dim=-1)):
            yield own.part(i), columns


def _scale(scales: Tensor, unscaled: Tensor, out: Tensor) -> None:
    unscaled.copy_(out)
    torch.mul(unscaled, 1 + _SCALES_RATE * scales, out=out)


def _scale_gradient(scales: Tensor, gradient: Tensor, unscaled: Tensor, delta: Tensor) -> None:
    """Write the gradient of the scales, and turn delta into that of the unscaled inputs."""
    torch.sum(delta * unscaled, dim=0, out=gradient).mul_(_SCALES_RATE)
    delta.mul_(1 + _SCALES_RATE * scales)
