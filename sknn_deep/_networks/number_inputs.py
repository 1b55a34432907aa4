r"""Input layers for the numbers of a table: scaling, embedding and missing values.

A number is centred and scaled to :math:`z` and, with robust scaling, clipped smoothly [1]_. Then
it is either used directly (:class:`ScaledNumbers`) or mapped to a vector
(:class:`EmbeddedNumbers`)

.. math:: e_j = \sum_t u_{jt} W_{jt} \in R^d

where :math:`u_j` consists of several functions of :math:`z`, :math:`z` itself, and an indicator
that is 1, with all others 0, if the number is missing. So a missing value has its own learned
vector. The functions are

* for "piecewise_linear", the shares of :math:`T` bins that lie below :math:`z`, with edges
  :math:`b_{jt}` from the training data (:func:`bin_edges`), :math:`u_{jt} = \min(\max((z -
  b_{j,t-1}) / (b_{jt} - b_{j,t-1}), 0), 1)`. As :math:`W` starts at zero except in the row of
  :math:`z`, the embedding starts as a linear one [2]_. :math:`z` is clipped to the first and last
  edge: a network has learned nothing beyond them, and a single row far outside could otherwise
  have an arbitrary prediction that dominates the validation score;
* for "periodic", :math:`u_{jt} = \cos(2 \pi f_{jt} z + \phi_{jt})`, with trained frequencies and
  phases [1]_.

References
----------
.. [1] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong pre-tuned MLPs
   and boosted trees on tabular data. NeurIPS.
.. [2] Y. Gorishniy, I. Rubachev, A. Babenko (2022). On embeddings for numerical features in
   tabular deep learning. NeurIPS.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.products import Program
from sknn_deep._networks.inputs import BoundInput, InputLayer

SCALINGS = ("standard", "robust")
BASES = ("piecewise_linear", "periodic")
# The smooth clip keeps numbers between plus and minus this.
CLIP = 3.0
# Minimum average number of rows per bin, if there are more bins than the second number.
_ROWS_OF_BIN, _FEWEST_BINS = 100, 8
# A bin that starts here is never reached.
_BEYOND = 1e30


class Numbers(InputLayer):
    """Base class of the two layers for numbers: their columns and scales.

    Input (batch, n_features), output (batch, n_inputs).

    Parameters
    ----------
    columns : sequence of int
        The columns that hold numbers.
    scaling : {"standard", "robust"} or None
        By mean and standard deviation; or by median and interquartile range, with the smooth clip
        z / sqrt(1 + (z / 3)²).
    dtype, device
        Type and device of parameters and buffers.
    """

    columns: Tensor
    center: Tensor
    factor: Tensor

    def __init__(
        self,
        columns: Sequence[int],
        scaling: str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.scaling = scaling
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.register_buffer("columns", torch.tensor(list(columns), device=device), False)
        self.register_buffer("center", torch.zeros(len(columns), **options))
        self.register_buffer("factor", torch.ones(len(columns), **options))

    def learn(self, X: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Set centres and scales to those of training rows.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
        weight : ndarray of shape (n_rows,), default=None
            Positive; a row with a weight of 2 counts as two rows.
        """
        values = X[:, self.columns.cpu().numpy()].astype(np.float64)
        center, scale = centers_and_scales(values, self.scaling, weight)
        self.center.copy_(torch.from_numpy(center))
        # zero for a constant column, of which nothing is learned: other values in later data would
        # be multiplied by random weights
        differs = np.fmin.reduce(values, axis=0) < np.fmax.reduce(values, axis=0)
        factor = 1 / scale if self.scaling is None else np.where(differs, 1 / scale, 0.0)
        self.factor.copy_(torch.from_numpy(factor))

    def scaled(self, x: Tensor) -> Tensor:
        """Return scaled numbers, NaN for missing values; shape (batch, n_columns)."""
        z = (x[:, self.columns] - self.center) * self.factor
        return z / (z / CLIP).square().add(1.0).sqrt() if self.scaling == "robust" else z


class ScaledNumbers(Numbers):
    """Scaled numbers, with a learned fill value and an indicator per column with missing values.

    A missing value is replaced by the median plus the learned value, or by the median alone if the
    column had no missing values in training.

    Input (batch, n_features), output (batch, n_columns + n_gaps).

    Parameters
    ----------
    columns : sequence of int
    gaps : sequence of int, default=()
        Those of the columns that have missing values.
    **options
        See :class:`Numbers`.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.number_inputs import ScaledNumbers
    >>> numbers = ScaledNumbers([0, 2], gaps=[2])
    >>> numbers(torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, torch.nan]])).detach()
    tensor([[1., 2., 0.],
            [3., 0., 1.]])
    """

    gaps: Tensor
    middle: Tensor

    def __init__(self, columns: Sequence[int], gaps: Sequence[int] = (), **options: Any):
        super().__init__(columns, **options)
        positions = [list(columns).index(column) for column in gaps]
        device = self.center.device
        self.register_buffer(
            "gaps", torch.tensor(positions, dtype=torch.long, device=device), False
        )
        self.register_buffer("middle", torch.zeros_like(self.center))
        self.n_inputs = len(columns) + len(gaps)
        if gaps:
            self.fill = nn.Parameter(self.center.new_zeros(len(gaps)))

    def learn(self, X: np.ndarray, weight: np.ndarray | None = None) -> None:
        super().learn(X, weight)
        if self.scaling is None:  # else the median is near zero
            columns = X[:, self.columns.cpu().numpy()].T.astype(np.float64)
            middles = [_quantiles(column, 0.5, weight) for column in columns]
            self.middle.copy_(torch.from_numpy(np.nan_to_num(middles)))

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        own = [features[column] for column in self.columns.tolist()]
        return own + [f"{own[position]}_is_missing" for position in self.gaps.tolist()]

    def forward(self, x: Tensor) -> Tensor:
        z = self.scaled(x)
        is_missing = z.isnan()
        z = torch.where(is_missing, self.middle, z)
        if not len(self.gaps):
            return z
        own = is_missing[:, self.gaps].to(z.dtype)
        return torch.cat([z.index_add(1, self.gaps, own * self.fill), own], dim=1)

    def kernels(self, own: BoundInput, x: Tensor, out: Tensor) -> Program:
        return [partial(self._write, own.parameters.get("fill"), x, out)]

    def gradient_kernels(self, own: BoundInput, x: Tensor, delta: Tensor) -> Program:
        return [partial(self._write_gradient, own.gradients["fill"], x, delta)]

    def _write(self, fill: Tensor | None, x: Tensor, out: Tensor) -> None:
        z = self.scaled(x)
        if fill is not None:
            is_missing = z.isnan()
            indicators = is_missing[:, self.gaps].to(z.dtype)
            z = torch.where(is_missing, self.middle, z)
            z.index_add_(1, self.gaps, indicators * fill)
            out[:, z.shape[1] :] = indicators
        out[:, : z.shape[1]] = z

    def _write_gradient(self, gradient: Tensor, x: Tensor, delta: Tensor) -> None:
        is_missing = x[:, self.columns[self.gaps]].isnan()
        torch.sum(delta[:, self.gaps] * is_missing, dim=0, out=gradient)


class EmbeddedNumbers(Numbers):
    """Learned vectors of numbers, a linear map of several functions of each number.

    Input (batch, n_features), output (batch, n_columns * size).

    Parameters
    ----------
    columns : sequence of int
    basis : {"piecewise_linear", "periodic"}
        The kind of functions.
    n_functions : int
        Number of bins or frequencies. With few rows there are fewer bins: one per hundred rows,
        but at least eight.
    size : int
        Length of the vectors.
    frequency_scale : float
        Standard deviation of the initial frequencies of "periodic".
    **options
        See :class:`Numbers`.

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._networks.number_inputs import EmbeddedNumbers
    >>> numbers = EmbeddedNumbers([0, 1], "piecewise_linear", n_functions=16, size=4)
    >>> numbers(torch.zeros(5, 2)).shape
    torch.Size([5, 8])
    """

    low: Tensor
    rate: Tensor
    ends: Tensor

    def __init__(
        self,
        columns: Sequence[int],
        basis: str,
        n_functions: int,
        size: int,
        frequency_scale: float = 0.1,
        **options: Any,
    ):
        super().__init__(columns, **options)
        self.basis, self.frequency_scale = basis, frequency_scale
        self.n_inputs = len(columns) * size
        new, shape = self.center.new_zeros, (len(columns), n_functions)
        self.weight = nn.Parameter(new((len(columns), n_functions + 2, size)))
        if basis == "periodic":
            self.frequencies = nn.Parameter(new(shape))
            self.phases = nn.Parameter(new(shape))
        else:
            self.register_buffer("low", new(shape))
            self.register_buffer("rate", new(shape))
            self.register_buffer("ends", new((2, len(columns))))

    def initialize(self, random_state: np.random.RandomState) -> None:
        n_columns, _, size = self.weight.shape
        with torch.no_grad():
            _draw(self.weight[:, -2], random_state.uniform(-1, 1, (n_columns, size)) / size**0.5)
            if self.basis == "periodic":
                shape = self.frequencies.shape
                _draw(self.frequencies, random_state.normal(0, self.frequency_scale, shape))
                _draw(self.phases, random_state.uniform(-np.pi, np.pi, shape))
                bound = shape[1] ** -0.5
                _draw(self.weight[:, :-2], random_state.uniform(-bound, bound, (*shape, size)))

    def names(self, features: Sequence[str], values: Mapping[int, Sequence[Any]]) -> list[str]:
        size = self.weight.shape[-1]
        return [f"{features[j]}_{i}" for j in self.columns.tolist() for i in range(size)]

    @property
    def kept_per_row(self) -> int:
        n_columns, n_values, size = self.weight.shape
        # intermediate results; for piecewise linear functions, the numbers that are compared
        on_the_way = 2 * n_values if self.basis == "periodic" else 2
        return n_columns * (n_values + size + on_the_way)

    def vectors_to_decay(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [parameters["weight"][..., :-2, :]]  # without the linear part and missing values

    def learn(self, X: np.ndarray, weight: np.ndarray | None = None) -> None:
        super().learn(X, weight)
        if self.basis != "piecewise_linear":
            return
        rows = torch.from_numpy(np.ascontiguousarray(X)).to(self.center)
        values = self.scaled(rows).cpu().numpy().astype(np.float64)
        low, rate = np.full(self.low.shape, _BEYOND), np.ones(self.low.shape)
        ends = np.zeros(self.ends.shape)
        for j, column in enumerate(values.T):
            n_bins = max(_FEWEST_BINS, np.isfinite(column).sum() // _ROWS_OF_BIN)
            edges = bin_edges(column, min(n_bins, self.low.shape[1]), weight)
            # a feature with few values leaves bins unused, which are never reached
            low[j, : max(len(edges) - 1, 0)] = edges[:-1]
            rate[j, : max(len(edges) - 1, 0)] = 1 / np.diff(edges)
            ends[:, j] = edges[[0, -1]] if len(edges) else 0.0
        self.low.copy_(torch.from_numpy(low))
        self.rate.copy_(torch.from_numpy(rate))
        self.ends.copy_(torch.from_numpy(ends))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            values = self._values(x)
        else:  # in place, which is faster
            n_columns, n_values, _ = self.weight.shape
            values = x.new_empty((n_columns, len(x), n_values))
            self._write_values(dict(self.named_parameters()), x, values)
        return torch.bmm(values, self.weight).transpose(0, 1).flatten(1)

    def _values(self, x: Tensor) -> Tensor:
        """Return the values that :meth:`_write_values` writes, for autograd."""
        z = self._within(self.scaled(x)).mT
        is_missing = z.isnan().unsqueeze(-1)
        z = z.unsqueeze(-1).masked_fill(is_missing, 0.0)
        if self.basis == "periodic":
            functions = (z * (2 * math.pi * self.frequencies[:, None]) + self.phases[:, None]).cos()
        else:
            functions = ((z - self.low[:, None]) * self.rate[:, None]).clamp(0.0, 1.0)
        functions = functions.masked_fill(is_missing, 0.0)
        return torch.cat([functions, z, is_missing.to(z.dtype)], dim=-1)

    def _within(self, z: Tensor) -> Tensor:
        """Return scaled numbers, clipped to the range of the bins."""
        return z if self.basis == "periodic" else z.clamp(self.ends[0], self.ends[1])

    def kernels(self, own: BoundInput, x: Tensor, out: Tensor) -> Program:
        values, vectors = own.cached(len(x), partial(self._workspace, x))
        return [
            partial(self._write_values, own.parameters, x, values),
            partial(torch.bmm, values, own.parameters["weight"], out=vectors),
            partial(_by_column(out, vectors).copy_, vectors),
        ]

    def gradient_kernels(self, own: BoundInput, x: Tensor, delta: Tensor) -> Program:
        values, vectors = own.cached(len(x), partial(self._workspace, x))
        kernels: Program = [
            partial(vectors.copy_, _by_column(delta, vectors)),
            partial(torch.bmm, values.mT, vectors, out=own.gradients["weight"]),
        ]
        if self.basis == "periodic":
            kernels.append(partial(_write_angles, own.parameters, values, vectors, own.gradients))
        return kernels

    def _workspace(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return buffers for the functions' values and the vectors of a batch."""
        n_columns, n_values, size = self.weight.shape
        values, vectors = ((n_columns, len(x), n) for n in (n_values, size))
        return x.new_empty(values), x.new_empty(vectors)

    def _write_values(self, params: dict[str, Tensor], x: Tensor, values: Tensor) -> None:
        z = self._within(self.scaled(x)).mT
        is_missing = z.isnan()
        values[..., -1] = is_missing
        functions = values[..., :-2]
        if self.basis == "periodic":
            values[..., -2] = z.masked_fill_(is_missing, 0.0)
            frequencies, phases = params["frequencies"], params["phases"]
            torch.mul(z.unsqueeze(-1), 2 * math.pi * frequencies.unsqueeze(1), out=functions)
            functions.add_(phases.unsqueeze(1)).cos_()
            functions.masked_fill_(is_missing.unsqueeze(-1), 0.0)
        else:
            z.masked_fill_(is_missing, -math.inf)  # below all bins
            torch.sub(z.unsqueeze(-1), self.low.unsqueeze(1), out=functions)
            functions.mul_(self.rate.unsqueeze(1)).clamp_(0.0, 1.0)
            values[..., -2] = z.masked_fill_(is_missing, 0.0)


def centers_and_scales(
    values: np.ndarray, scaling: str | None, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the center and the scale of each column.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        NaN for missing values.
    scaling : {"standard", "robust"} or None
    weight : ndarray of shape (n_rows,), default=None

    Returns
    -------
    centers, scales : ndarray of shape (n_columns,)
        A column without two different known values is centred but not scaled. With "robust", a
        column whose middle half is constant is scaled by half of its range [1]_.

    References
    ----------
    .. [1] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong pre-tuned
       MLPs and boosted trees on tabular data. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._networks.number_inputs import centers_and_scales
    >>> centers_and_scales(np.array([[0.0], [1.0], [2.0], [3.0], [100.0]]), "robust")
    (array([2.]), array([2.]))
    """
    n_columns = values.shape[1]
    centers, scales = np.zeros(n_columns), np.ones(n_columns)
    if scaling is None:
        return centers, scales
    for j, column in enumerate(values.T):
        is_known = ~np.isnan(column)
        known = column[is_known]
        if not len(known):
            continue
        if scaling == "standard":
            shares = None if weight is None else weight[is_known]
            centers[j] = np.average(known, weights=shares)
            scale = np.sqrt(np.average(np.square(known - centers[j]), weights=shares))
        else:
            low, centers[j], high = _quantiles(column, [0.25, 0.5, 0.75], weight)
            scale = high - low or np.ptp(known) / 2
        # the mean of equal numbers may have a rounding error
        is_constant = scale <= 1e-12 * np.abs(known).max()
        scales[j] = 1.0 if is_constant else scale
    return centers, scales


def _quantiles(column: np.ndarray, shares: Any, weight: np.ndarray | None) -> Any:
    """Return quantiles that are themselves known values; NaN if none is known."""
    is_known = ~np.isnan(column)
    if not is_known.any():
        return np.full(np.shape(shares), np.nan)
    weights = None if weight is None else weight[is_known]
    return np.quantile(column[is_known], shares, weights=weights, method="inverted_cdf")


def bin_edges(column: np.ndarray, n_bins: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the edges of bins for the piecewise linear embedding.

    Plain quantiles waste bins if many rows have the same value: for capital gains that are zero in
    nine of ten rows, hardly any edge would be left for the others. So a value with more rows than
    an average bin becomes an edge of its own, and the other edges are quantiles of the other rows,
    as in the histograms of gradient boosting [1]_.

    Parameters
    ----------
    column : ndarray of shape (n_rows,)
        NaN for missing values.
    n_bins : int
        Maximum number of bins.
    weight : ndarray of shape (n_rows,), default=None

    Returns
    -------
    edges : ndarray of shape (n_edges,)
        Sorted; all distinct values if there are few.

    References
    ----------
    .. [1] G. Ke et al. (2017). LightGBM: a highly efficient gradient boosting decision tree.
       NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._networks.number_inputs import bin_edges
    >>> bin_edges(np.array([0.0] * 90 + list(range(10, 21))), 4)
    array([ 0., 10., 13., 17., 20.])
    """
    is_known = ~np.isnan(column)
    values, numbers = np.unique(column[is_known], return_inverse=True)
    counts = np.bincount(numbers, weights=None if weight is None else weight[is_known])
    if len(values) <= n_bins + 1:
        return values
    is_heavy = np.zeros(len(values), dtype=bool)
    n_left = n_bins + 1
    while n_left > 2:
        new = ~is_heavy & (counts > counts[~is_heavy].sum() / n_left)
        if not new.any():
            break
        is_heavy |= new
        n_left = n_bins + 1 - is_heavy.sum()
    heavy, others = values[is_heavy], values[~is_heavy]
    if n_left < 2 or not len(others):
        return heavy[:: -(-len(heavy) // (n_bins + 1))]
    shares = np.linspace(0, 1, n_left)
    quantiles = np.quantile(others, shares, weights=counts[~is_heavy], method="inverted_cdf")
    return np.union1d(heavy, quantiles)


def _by_column(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return a view of rows, shape (batch, n_columns * size), in the shape of ``vectors``."""
    return rows.unflatten(1, (len(vectors), -1)).transpose(0, 1)


def _write_angles(
    params: dict[str, Tensor], values: Tensor, vectors: Tensor, gradients: dict[str, Tensor]
) -> None:
    """Write the gradients of frequencies and phases; ``vectors`` holds those of the output."""
    z, is_missing = values[..., -2:-1], values[..., -1:]
    frequencies, phases = params["frequencies"].unsqueeze(1), params["phases"].unsqueeze(1)
    sine = (2 * math.pi * frequencies * z + phases).sin_()
    of_angles = torch.bmm(vectors, params["weight"][:, :-2].mT).mul_(sine).mul_(is_missing - 1)
    torch.sum(of_angles, dim=1, out=gradients["phases"])
    torch.sum(of_angles.mul_(2 * math.pi * z), dim=1, out=gradients["frequencies"])


def _draw(param: Tensor, drawn: np.ndarray) -> None:
    param.copy_(torch.from_numpy(drawn))
