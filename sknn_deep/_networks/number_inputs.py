r"""Input layers for the numbers of a table: scaled, embedded, with values that are missing.

A number is centred and scaled to :math:`z` and, with robust scaling, clipped smoothly [1]_. Then
it goes on as it is (:class:`ScaledNumbers`), or becomes a vector (:class:`EmbeddedNumbers`)

.. math:: e_j = \sum_t u_{jt} W_{jt} \in R^d

where :math:`u_j` are some functions of :math:`z`, then :math:`z` itself, and last an indicator that
is 1 where the number is missing and all others are 0. So a gap has a learned vector of its own. The
functions are

* of "piecewise_linear" the shares of :math:`T` bins that lie below :math:`z`, with edges
  :math:`b_{jt}` from the training data (:func:`bin_edges`), :math:`u_{jt} = \min(\max((z -
  b_{j,t-1}) / (b_{jt} - b_{j,t-1}), 0), 1)`. As :math:`W` starts at zero but in the row of
  :math:`z`, the embedding starts as a linear one [2]_. Beyond the first and the last edge
  :math:`z` is that edge: a network knows nothing there, and a single row far outside would
  otherwise decide on what a validation set says, and be predicted anyhow;
* of "periodic" :math:`u_{jt} = \cos(2 \pi f_{jt} z + \phi_{jt})`, with frequencies and phases that
  are trained [1]_.

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
# A number that is clipped smoothly stays between plus and minus this.
CLIP = 3.0
# Average rows of a bin, where there are more bins than the second number.
_ROWS_OF_BIN, _FEWEST_BINS = 100, 8
# A bin that begins here is never reached.
_BEYOND = 1e30


class Numbers(InputLayer):
    """Base of the two layers for numbers: their columns and scales.

    Input (batch, n_features), output (batch, n_inputs).

    Parameters
    ----------
    columns : sequence of int
        Where the numbers stand.
    scaling : {"standard", "robust"} or None
        By mean and standard deviation; or by median and interquartile range, with the smooth clip
        z / sqrt(1 + (z / 3)²).
    dtype, device
        Of parameters and buffers.
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
            Positive: a row with a weight of 2 counts as two.
        """
        values = X[:, self.columns.cpu().numpy()].astype(np.float64)
        center, scale = centers_and_scales(values, self.scaling, weight)
        self.center.copy_(torch.from_numpy(center))
        # nothing is learned of a column without values that differ: whatever it holds later would
        # be multiplied by random weights
        differs = np.fmin.reduce(values, axis=0) < np.fmax.reduce(values, axis=0)
        factor = 1 / scale if self.scaling is None else np.where(differs, 1 / scale, 0.0)
        self.factor.copy_(torch.from_numpy(factor))

    def scaled(self, x: Tensor) -> Tensor:
        """Return scaled numbers, NaN where they are missing; shape (batch, n_columns)."""
        z = (x[:, self.columns] - self.center) * self.factor
        return z / (z / CLIP).square().add(1.0).sqrt() if self.scaling == "robust" else z


class ScaledNumbers(Numbers):
    """Numbers as they are, and for each column with gaps a learned value and an indicator.

    A gap is the median plus what is learned; where the training had none, the median alone.

    Input (batch, n_features), output (batch, n_columns + n_gaps).

    Parameters
    ----------
    columns : sequence of int
    gaps : sequence of int, default=()
        Those of the columns in which numbers are missing.
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
        if self.scaling is None:  # else the middle is near zero
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
    """Numbers as vectors that are learned, a linear map of some functions of each.

    Input (batch, n_features), output (batch, n_columns * size).

    Parameters
    ----------
    columns : sequence of int
    basis : {"piecewise_linear", "periodic"}
        The functions.
    n_functions : int
        Bins, or frequencies. From few rows fewer bins are made: one for each hundred, and eight
        at least.
    size : int
        Length of the vectors.
    frequency_scale : float
        Standard deviation of the frequencies that "periodic" starts with.
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
        # what is computed on the way: of piecewise linear functions the numbers that are compared
        on_the_way = 2 * n_values if self.basis == "periodic" else 2
        return n_columns * (n_values + size + on_the_way)

    def vectors_to_decay(self, parameters: Mapping[str, Tensor]) -> list[Tensor]:
        return [parameters["weight"][..., :-2, :]]  # the linear part is left, and that of gaps

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
            # a feature of few values leaves bins over, which are never reached
            low[j, : max(len(edges) - 1, 0)] = edges[:-1]
            rate[j, : max(len(edges) - 1, 0)] = 1 / np.diff(edges)
            ends[:, j] = edges[[0, -1]] if len(edges) else 0.0
        self.low.copy_(torch.from_numpy(low))
        self.rate.copy_(torch.from_numpy(rate))
        self.ends.copy_(torch.from_numpy(ends))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            values = self._values(x)
        else:  # in place, which takes less time
            n_columns, n_values, _ = self.weight.shape
            values = x.new_empty((n_columns, len(x), n_values))
            self._write_values(dict(self.named_parameters()), x, values)
        return torch.bmm(values, self.weight).transpose(0, 1).flatten(1)

    def _values(self, x: Tensor) -> Tensor:
        """Return what :meth:`_write_values` writes, for autograd."""
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
        """Return scaled numbers, those beyond the bins as the nearest end of them."""
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
        """Return where the functions' values and the vectors of a batch are written."""
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
    """Return what is subtracted from each column, and what it is divided by.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        NaN where a number is missing.
    scaling : {"standard", "robust"} or None
    weight : ndarray of shape (n_rows,), default=None

    Returns
    -------
    centers, scales : ndarray of shape (n_columns,)
        A column without two known values that differ is centred, and not scaled. With "robust"
        one whose middle half is constant is scaled by half of its range [1]_.

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
        # the mean of equal numbers may be off by a rounding error
        is_constant = scale <= 1e-12 * np.abs(known).max()
        scales[j] = 1.0 if is_constant else scale
    return centers, scales


def _quantiles(column: np.ndarray, shares: Any, weight: np.ndarray | None) -> Any:
    """Return quantiles of the known values that are among them; NaN where none is known."""
    is_known = ~np.isnan(column)
    if not is_known.any():
        return np.full(np.shape(shares), np.nan)
    weights = None if weight is None else weight[is_known]
    return np.quantile(column[is_known], shares, weights=weights, method="inverted_cdf")


def bin_edges(column: np.ndarray, n_bins: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the ends of bins between which a number's share of a bin is counted.

    Plain quantiles waste bins where many rows have one value: of capital gains that are zero in
    nine of ten rows hardly any edge would be left for the others. So a value with more rows than a
    bin has on average is an edge of its own, and the other edges are quantiles of the other rows,
    as in the histograms of gradient boosting [1]_.

    Parameters
    ----------
    column : ndarray of shape (n_rows,)
        NaN where a number is missing.
    n_bins : int
        The largest number of them.
    weight : ndarray of shape (n_rows,), default=None

    Returns
    -------
    edges : ndarray of shape (n_edges,)
        Sorted; each value, where there are few.

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
    """Return rows of all vectors, shape (batch, n_columns * size), in the shape of ``vectors``."""
    return rows.unflatten(1, (len(vectors), -1)).transpose(0, 1)


def _write_angles(
    params: dict[str, Tensor], values: Tensor, vectors: Tensor, gradients: dict[str, Tensor]
) -> None:
    """Write the gradients of frequencies and phases; ``vectors`` are those of the output."""
    z, is_missing = values[..., -2:-1], values[..., -1:]
    frequencies, phases = params["frequencies"].unsqueeze(1), params["phases"].unsqueeze(1)
    sine = (2 * math.pi * frequencies * z + phases).sin_()
    of_angles = torch.bmm(vectors, params["weight"][:, :-2].mT).mul_(sine).mul_(is_missing - 1)
    torch.sum(of_angles, dim=1, out=gradients["phases"])
    torch.sum(of_angles.mul_(2 * math.pi * z), dim=1, out=gradients["frequencies"])


def _draw(param: Tensor, drawn: np.ndarray) -> None:
    param.copy_(torch.from_numpy(drawn))
