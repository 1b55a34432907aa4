"""Statistics of a trained autoencoder's code: moments, principal axes, explained variance."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.features import slices
from sknn_deep._hardware.device import computes_in_double
from sknn_deep._networks.flat import Linear
from sknn_deep._networks.models import Autoencoder

# Kept pieces are joined at this number: many small ones would fragment the memory, which then
# grows.
_PIECES = 32
# About this many rows are decoded per call; with fewer, the overhead of the calls becomes
# noticeable. Sparse rows, which are densified only here, have at most this many numbers per call.
_DECODED, _NUMBERS = 1000, 2**21


class CodeMoments(NamedTuple):
    """Moments of the codes of a training set, and a sample of its rows.

    Attributes
    ----------
    mean : ndarray of shape (n_components,)
    covariance : ndarray of shape (n_components, n_components)
    rows : {Tensor, CSR matrix} of shape (n_rows, n_features)
        A sample of the rows, evenly spaced in the order in which they were read.
    weight : Tensor of shape (n_rows,)
        Their weights.
    do_vary : bool
        Whether the rows of the set differ at all.
    """

    mean: np.ndarray
    covariance: np.ndarray
    rows: Any
    weight: Tensor
    do_vary: bool

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows, densified, and their weights; sparse rows in small pieces."""
        if isinstance(self.rows, Tensor):
            yield self.rows, self.weight
            return
        for part in slices(len(self.weight), self.at_once):
            weight = self.weight[part]
            yield torch.from_numpy(self.rows[part].toarray()).to(weight.device), weight

    @property
    def at_once(self) -> int:
        """Largest number of rows to decode together."""
        if isinstance(self.rows, Tensor):
            return _DECODED
        return max(1, min(_DECODED, _NUMBERS // self.rows.shape[1]))


def code_moments(
    network: Autoencoder,
    chunks: Iterable[Chunk],
    *,
    n_rows: int,
    n_kept: int,
    are_sparse: bool = False,
) -> CodeMoments:
    """Encode a training set chunk by chunk, and compute its moments in double precision.

    Parameters
    ----------
    network : Autoencoder
        In evaluation mode.
    chunks : iterable of Chunk
    n_rows : int
        How many of the rows to read, from the first.
    n_kept : int
        About how many rows to keep.
    are_sparse : bool, default=False
        Whether the rows are sparse; the kept ones then stay sparse.
    """
    step, do_vary, n_read, total = -(-n_rows // n_kept), False, 0, 0.0
    rows: list[Any] = []
    weights: list[Tensor] = []
    for chunk in chunks:
        X = chunk.X[: n_rows - n_read]
        with torch.inference_mode():
            codes = network.encode(X)
        codes = (codes if computes_in_double(codes.device) else codes.cpu()).double()
        weight = row_weights(chunk)[: len(X)].to(codes.device)
        if n_read == 0:
            # sums are about a point within the data, to avoid cancellation
            start, first_row = codes[0], X[0].clone()
            first, second = torch.zeros_like(start), torch.zeros_like(torch.outer(start, start))
        n_read += len(X)
        for some in (X[:8], X):  # a few first: comparing all takes as long as encoding
            do_vary = do_vary or bool((some != first_row).any())
        codes = codes - start
        # in torch: NumPy's threads would spin and compete with torch's
        total += weight.sum().item()
        first += weight @ codes
        second += (weight.unsqueeze(1) * codes).T @ codes
        rows.append(sp.csr_matrix(X[::step].cpu().numpy()) if are_sparse else X[::step].clone())
        weights.append(weight[::step].clone())
        if len(rows) == _PIECES:
            rows = [_joined(rows)]
        if n_read >= n_rows:  # checked before another chunk is gathered
            break
    mean = first / total
    kept = torch.cat(weights).to(X.device, X.dtype)
    covariance = second / total - torch.outer(mean, mean)
    center, spread = (part.cpu().numpy() for part in (start + mean, covariance))
    return CodeMoments(center, spread, _joined(rows), kept, do_vary)


def _joined(rows: list[Any]) -> Any:
    return torch.cat(rows) if isinstance(rows[0], Tensor) else sp.vstack(rows, format="csr")


def row_weights(chunk: Chunk) -> Tensor:
    """Return the weight of each row of a chunk, in double precision on the CPU."""
    if chunk.scale is None:
        return torch.ones(len(chunk.X), dtype=torch.double, device="cpu")
    lengths = torch.tensor([part.stop - part.start for part in chunk.parts], device="cpu")
    sums = torch.tensor(chunk.weight_sums, dtype=torch.double, device="cpu")
    return chunk.scale[:, 0].cpu().double() * sums.repeat_interleave(lengths)


def reconstruction_errors(network: Autoencoder, rows: Tensor) -> Tensor:
    """Return the mean squared error of each row, shape (n_rows,), without missing features."""
    return network.squared_errors(network.reconstruct(rows), rows).nanmean(dim=1)


def turn_to_principal_axes(network: Autoencoder, moments: CodeMoments) -> CodeMoments:
    r"""Rotate a linear code so that its units are centred, uncorrelated and ordered by variance.

    With the mean :math:`m` and the eigenvectors :math:`V` of the covariance, the code
    :math:`V^\top (h - m)` carries the same information; it is folded into the layers on both sides:

    .. math::
        W_e' = V^\top W_e, \quad b_e' = V^\top (b_e - m), \qquad
        W_d' = W_d V, \quad b_d' = b_d + W_d m

    Returns
    -------
    moments : CodeMoments
        Of the new code.
    """
    variances, axes = np.linalg.eigh(moments.covariance)
    variances, axes = variances[::-1].clip(0), axes[:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, range(len(axes))] < 0, -1.0, 1.0)
    encoder = [module for module in network.encoder if isinstance(module, Linear)][-1]
    decoder, *_ = [module for module in network.decoder if isinstance(module, Linear)]
    with torch.no_grad():
        # in double precision, like the axes, and on the CPU, which always has it
        w_e, b_e, w_d, b_d = (
            tensor.cpu().double().numpy()
            for tensor in (encoder.weight, encoder.bias, decoder.weight, decoder.bias)
        )
        for tensor, value in (
            (encoder.weight, axes.T @ w_e),
            (encoder.bias, axes.T @ (b_e - moments.mean)),
            (decoder.weight, w_d @ axes),
            (decoder.bias, b_d + w_d @ moments.mean),
        ):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    return moments._replace(mean=np.zeros_like(moments.mean), covariance=np.diag(variances))


def explained_variance(
    network: Autoencoder, moments: CodeMoments, mean: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return how much of the features' variance each unit of the code adds to those before it.

    The code is decoded with the first k units known and the others at their mean; the decrease of
    the squared error from k - 1 to k is the variance explained by unit k. For PCA's code, these are
    the eigenvalues of the covariance.

    Parameters
    ----------
    network : Autoencoder
    moments : CodeMoments
        Moments of the code; the rows in it are reconstructed.
    mean : ndarray of shape (n_features,)
        Means of the features.

    Returns
    -------
    explained : ndarray of shape (n_components,)
        Summed over the features.
    variance : float
        Variance of the features about their mean.
    """
    weight, n_units = moments.weight / moments.weight.sum(), len(moments.mean)
    # errors of each row, indexed by the number of known units; missing features have no error
    errors: list[list[Tensor]] = [[] for _ in range(n_units + 1)]

    def measure(n_known: int, reconstruction: Tensor, rows: Tensor) -> None:
        errors[n_known].append(network.squared_errors(reconstruction, rows).nansum(dim=1))

    with torch.inference_mode():
        units = torch.arange(n_units, device=weight.device)
        for rows, _ in moments.pieces():
            measure(0, torch.from_numpy(mean).to(rows), rows)
            codes = network.encode(rows)
            center = torch.from_numpy(moments.mean).to(codes)
            n_together = max(1, moments.at_once // len(rows))
            for some in units.split(n_together):
                are_known = (units <= some.unsqueeze(1)).unsqueeze(1)
                known = torch.where(are_known, codes, center).flatten(0, 1)
                decoded = network.decode(known).chunk(len(some))
                for n_known, part in enumerate(decoded, start=int(some[0]) + 1):
                    measure(n_known, part, rows)
    sums = [float(weight @ torch.cat(of_rows)) for of_rows in errors]
    return -np.diff(sums), sums[0]
