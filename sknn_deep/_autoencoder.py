"""The autoencoder: dimensionality reduction by a dense network, as a transformer."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import with_callbacks
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from sknn_deep._base import BaseDeepNetwork
from sknn_deep._device import numpy_dtype, torch_dtype
from sknn_deep._losses import Loss, reconstruction_loss
from sknn_deep._network import ACTIVATIONS, Autoencoder
from sknn_deep._validation import Interval, StrOptions, check_sample_weight, fit_context


@dataclass(eq=False, repr=False)
class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDeepNetwork):
    """Dimensionality reduction by an autoencoder.

    An encoder maps the features to a code of ``n_components`` units, a decoder maps the
    code back, and both learn together to reconstruct the data. ``transform`` gives the
    code: where PCA finds the best linear subspace, the code follows a curved one.

    Parameters
    ----------
    n_components : int, default=32
        Units of the code, the dimension of what ``transform`` returns. More than there
        are features is allowed, and compresses nothing.

    hidden_layer_sizes : array-like of int, default=(128, 64)
        Units of the encoder's hidden layers. ``()`` encodes linearly.

    activation : str or list of str, default="relu"
        Activation of the hidden layers, or one name per hidden layer: "identity",
        "logistic", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish" or
        "softplus". Smooth ones such as "gelu" and "silu" often fit better.

    solver : str or torch.optim.Optimizer class, default="adam"
        "lbfgs" is SciPy's quasi-Newton method on the whole set, best for small sets. "sgd"
        and "adam" follow scikit-learn's formulas; "adamw", "nadam", "radam", "rmsprop" and
        "adagrad" are torch's. "muon" orthogonalises the steps of the hidden weight
        matrices and leaves the rest to Adam. A class is given all parameters of the
        module, ``lr=learning_rate_init`` and ``solver_params``.

    alpha : float, default=0.0001
        Strength of the L2 penalty on the weights, divided by the number of samples of
        the batch. Raise it against overfitting.

    batch_size : int or "auto", default="auto"
        Samples per step of the stochastic solvers; "auto" is ``min(200, n_samples)``. A
        larger batch makes an epoch faster and the number of epochs larger.

    learning_rate : str, default="constant"
        Schedule of the learning rate. "constant", "invscaling"
        (``learning_rate_init / (t + 1) ** power_t`` after t samples) and "adaptive" (a
        fifth whenever the stopping rule strikes) mean what they mean in scikit-learn, the
        last two with ``solver="sgd"`` only. "cosine" falls to zero over ``max_iter`` epochs;
        "one_cycle" first rises over 30 % of them from a 25th of ``learning_rate_init``.
        Both run their whole course unless early stopping ends it, and reach a given
        accuracy in far fewer epochs than a constant rate.

    learning_rate_init : float, default=0.001
        Initial learning rate; the peak of "cosine" and "one_cycle".

    power_t : float, default=0.5
        Exponent of "invscaling".

    max_iter : int, default=200
        Largest number of epochs, or of L-BFGS iterations.

    shuffle : bool, default=True
        Whether to permute the samples before each epoch.

    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the validation split, the permutations and the dropout
        masks. An int gives the same network every time, whatever happens to the global
        random states; None draws from NumPy's, as in scikit-learn.

    tol : float, default=0.0001
        Smallest improvement of the training loss (of the
        validation score with early stopping) that counts for the stopping rule;
        the gradient tolerance of L-BFGS.

    verbose : bool or int, default=False
        Whether to print the loss of each epoch.

    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the previous call.

    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether "sgd" uses Nesterov's momentum.

    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the samples, stop when the
        validation score no longer improves, and restore the best weights. A validation
        set passed to ``fit`` switches it on.

    validation_fraction : float, default=0.1
        Share of the samples that early stopping holds out.

    beta_1 : float, default=0.9
        Decay of the first moment of "adam" and its kin, in [0, 1).

    beta_2 : float, default=0.999
        Decay of the second moment, in [0, 1).

    epsilon : float, default=1e-08
        Keeps the denominator of "adam" and its kin from zero.

    n_iter_no_change : int, default=10
        Epochs in a row without an improvement of ``tol`` after which training stops;
        ``np.inf`` runs all ``max_iter`` epochs.

    max_fun : int, default=15000
        Largest number of L-BFGS function evaluations.

    dropout : float or list of float, default=0.0
        Probability with which a hidden unit is dropped during training, or one per
        hidden layer. Against overfitting; 0.1 to 0.5 are usual.

    normalization : {"batch", "layer"} or None, default=None
        Normalisation before each hidden activation: over the batch, or over the units of
        each sample. Allows larger learning rates.

    solver_params : dict or None, default=None
        Further arguments of the optimiser, such as ``{"amsgrad": True}`` for "adamw".

    weight_decay : float or None, default=None
        Decoupled weight decay of the stochastic solvers: each step shrinks the weights,
        not the biases, by the factor ``1 - learning rate * weight_decay``. None is 0.01
        for "adamw" and "muon" and 0 for all others.

    max_grad_norm : float or None, default=None
        Euclidean norm to which a longer gradient is cut. Steadies training when the loss
        jumps.

    scoring : str, callable or None, default=None
        What early stopping maximises. None is "loss"; "loss"
        is the negative validation loss; else a scorer's name or a callable
        ``scorer(estimator, X, y)``, which is given ``sample_weight`` if it takes it.

    device : str or torch.device, default="auto"
        Where to train and predict: "cpu", "cuda", "cuda:1" or "mps". "auto" is the first
        CUDA device where there is one, else the CPU.

    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Floating-point type of the network. "auto" follows X on the CPU (float32 stays
        float32, all else becomes float64) and is float32 on a GPU. On the CPU float32
        trains faster and takes half the memory.
        "bfloat16" computes the matrix products of the training in that type and keeps
        weights, sums and predictions in float32: faster on recent GPUs, with two to three
        significant digits in each gradient.

    callbacks : list of skorch callbacks or None, default=None
        Such as ``skorch.callbacks.LRScheduler()``. scikit-learn's own callbacks are
        registered with ``set_callbacks``.

    decoder_hidden_layer_sizes : array-like of int or None, default=None
        Units of the decoder's hidden layers; None mirrors the encoder's.

    code_activation : str, default="identity"
        Activation of the code. With "identity" no unit of the code can die, as the units
        of a "relu" code do; "tanh" and "logistic" bound the code.

    output_activation : str, default="auto"
        Activation of the output: "auto", or a name of ``activation``. "auto" is
        "logistic" when the training data lie in [0, 1] (pixels, scaled features), else
        "identity".

    loss : {"squared_error"}, default="squared_error"
        What training minimises: the mean squared error per feature, neither halved nor
        summed.

    Attributes
    ----------
    module_ : torch.nn.Module
        The fitted network, in evaluation mode.

    encoder_, decoder_ : torch.nn.Module
        Its two halves: features to code, and code to features.

    mean_ : ndarray of shape (`n_features_in_`,)
        Mean of the training data, the reconstruction that ``score`` compares with.

    history_ : skorch.history.History
        One row per epoch: "train_loss", "dur" (seconds) and, with a validation set,
        "valid_loss" and "valid_score".

    loss_ : float
        Loss of the last epoch, penalty included.

    loss_curve_ : list of float
        Loss of each epoch: mean squared error per feature, penalty included.

    validation_scores_ : list of float or None
        Validation score of each epoch, with early stopping.

    validation_loss_curve_ : list of float or None
        Validation loss of each epoch, without the penalty, with early stopping.

    best_loss_ : float or None
        Smallest training loss; None with early stopping.

    best_validation_score_ : float or None
        Largest validation score, with early stopping.

    best_iter_ : int
        Epoch, counted from 1, whose weights were kept with early stopping; else the last.

    n_iter_ : int
        Epochs of the last call, or L-BFGS iterations.

    t_ : int
        Training samples seen, over all epochs.

    n_layers_ : int
        Number of layers, input, code and output included.

    out_activation_ : str
        Activation of the output.

    device_ : str
        Where the network is.

    n_features_in_ : int
        Number of features seen during ``fit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings.

    See Also
    --------
    sklearn.decomposition.PCA : The best linear reduction, in closed form.
    DeepMLPClassifier : Dense networks that classify.

    Notes
    -----
    For the error that a given network can reach, the schedule matters most: try
    ``learning_rate="one_cycle"`` with ``learning_rate_init=0.003`` first.

    References
    ----------
    .. [1] G. Hinton, R. Salakhutdinov (2006). Reducing the dimensionality of data with
       neural networks. Science 313.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sknn_deep import AutoencoderTransformer
    >>> X = load_digits().data / 16
    >>> autoencoder = AutoencoderTransformer(
    ...     n_components=4, learning_rate="one_cycle", learning_rate_init=0.005, max_iter=60,
    ...     random_state=0,
    ... ).fit(X)
    >>> autoencoder.transform(X).shape
    (1797, 4)
    >>> pca = PCA(4).fit(X)
    >>> bool(autoencoder.score(X) > pca.explained_variance_ratio_.sum())
    True
    """

    n_components: int = 32
    hidden_layer_sizes: ArrayLike = (128, 64)
    activation: str | list[str] = "relu"
    _: KW_ONLY
    decoder_hidden_layer_sizes: ArrayLike | None = None
    code_activation: str = "identity"
    output_activation: str = "auto"
    loss: str = "squared_error"

    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepNetwork._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "decoder_hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "code_activation": [StrOptions(set(ACTIVATIONS))],
        "output_activation": [StrOptions({"auto", *ACTIVATIONS})],
        "loss": [StrOptions({"squared_error"})],
    }

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X, y=None, sample_weight=None, *, X_val=None, sample_weight_val=None
    ) -> "AutoencoderTransformer":
        """Learn to reconstruct the data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data. Sparse rows are densified batch by batch.

        y : None, default=None
            Ignored, present for the API's consistency.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data. Passing it switches early stopping on.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        Returns
        -------
        self : AutoencoderTransformer

        Raises
        ------
        ValueError
            If the input is invalid, or training ends with weights that are not finite.
        """
        return self._fit(X, None, sample_weight, held_out=(X_val, None, sample_weight_val))

    @available_if(lambda est: est._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None) -> "AutoencoderTransformer":
        """Train one epoch on the given data.

        The schedules "cosine" and "one_cycle" count the calls as epochs: after
        ``max_iter`` calls the learning rate is zero. The first call settles ``mean_`` and,
        with ``output_activation="auto"``, the output activation, from its data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : None, default=None
            Ignored, present for the API's consistency.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        Returns
        -------
        self : AutoencoderTransformer
        """
        return self._fit(X, None, sample_weight, incremental=True)

    @property
    def encoder_(self) -> nn.Module:
        """The half of the network that maps features to the code."""
        check_is_fitted(self)
        return self.module_.encoder

    @property
    def decoder_(self) -> nn.Module:
        """The half of the network that maps the code to features."""
        check_is_fitted(self)
        return self.module_.decoder

    def transform(self, X) -> np.ndarray:
        """Encode the data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        codes : ndarray of shape (n_samples, n_components)
        """
        X = self._validate_input(X)
        return self._map_rows(self.module_.encoder, X)

    def inverse_transform(self, X) -> np.ndarray:
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Codes, from ``transform`` or anywhere else.

        Returns
        -------
        reconstructions : ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        codes = check_array(
            X, dtype=numpy_dtype(self.module_.flat.dtype), order="C", input_name="X"
        )
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {codes.shape[1]} columns, but the code of this autoencoder has "
                f"{self._n_features_out} units; pass what transform returns."
            )
        return self._map_rows(self.module_.decoder, codes)

    def reconstruction_error(self, X) -> np.ndarray:
        """Return how badly each row is reconstructed.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        errors : ndarray of shape (n_samples,)
            Mean squared error per feature.
        """
        X = self._validate_input(X)
        return self._map_rows(lambda rows: (self.module_(rows) - rows).square().mean(dim=1), X)

    def score_samples(self, X) -> np.ndarray:
        """Return the negative reconstruction error of each row: low for an outlier.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        return -self.reconstruction_error(X)

    def score(self, X, y=None, sample_weight=None) -> float:
        """Return the share of the variance that the reconstruction explains.

        One minus the squared error of the reconstruction over that of ``mean_``. For the
        training data of a PCA the same figure is ``explained_variance_ratio_.sum()``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        y : None, default=None
            Ignored, present for the API's consistency.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            At most 1; 0 is what reconstructing the mean would give. NaN for data that do
            not vary about the mean.
        """
        X = self._validate_input(X)
        sample_weight = check_sample_weight(sample_weight, X)
        mean = torch.from_numpy(self.mean_).to(self.module_.flat.device)

        def errors(rows):
            residual = (self.module_(rows) - rows).square().mean(dim=1)
            return torch.stack([residual, (rows - mean).square().mean(dim=1)], dim=1)

        both = self._map_rows(errors, X).astype(np.float64)
        residual, spread = np.average(both, axis=0, weights=sample_weight)
        return float(1 - residual / spread) if spread > 0 else np.nan

    @property
    def _n_features_out(self) -> int:
        return self.module_.config["decoder"]["layer_units"][0]

    def _validate_training_data(self, X, y, dtypes, incremental, reset):
        X = validate_data(self, X, accept_sparse="csr", dtype=dtypes, order="C", reset=reset)
        if reset:
            self.out_activation_ = self.output_activation
            if self.output_activation == "auto":
                values = X.data if sp.issparse(X) else X
                in_unit_interval = values.size == 0 or (values.min() >= 0 and values.max() <= 1)
                self.out_activation_ = "logistic" if in_unit_interval else "identity"
        return X, None, None

    def _planned_output(self, n_classes, n_outputs):
        if n_classes is not None or n_outputs is not None:
            raise ValueError(
                "AutoencoderTransformer reconstructs its features and has no other outputs; got "
                f"n_classes={n_classes} and n_outputs={n_outputs}, leave both out."
            )
        return None, self.output_activation

    def _start(self, samples, random_state, device):
        X, weight = samples.X, samples.weight
        # in double precision: in float32 the sum of many rows loses digits
        if weight is None:
            mean = X.mean(axis=0, dtype=np.float64)
        else:
            mean = weight @ X / weight.sum()
        self.mean_ = np.asarray(mean, dtype=X.dtype).ravel()
        super()._start(samples, random_state, device)

    def _validate_held_out_data(self, X, y, dtype):
        X = validate_data(self, X, accept_sparse="csr", dtype=dtype, order="C", reset=False)
        return X, None, None

    def _network_config(self, X) -> dict[str, Any]:
        """Return the arguments of :class:`Autoencoder`."""
        encoder, decoder = self._sizes()
        activations, dropout = self._layer_options(len(encoder) + len(decoder))
        shared = {"normalization": self.normalization, "dtype": torch_dtype(X.dtype)}
        n_features, n_encoder = X.shape[1], len(encoder)
        return {
            "encoder": {
                "layer_units": (n_features, *encoder, self.n_components),
                "activations": tuple(activations[:n_encoder]),
                "dropout": tuple(dropout[:n_encoder]),
                "out_activation": self.code_activation,
                **shared,
            },
            "decoder": {
                "layer_units": (self.n_components, *decoder, n_features),
                "activations": tuple(activations[n_encoder:]),
                "dropout": tuple(dropout[n_encoder:]),
                "out_activation": self.out_activation_,
                **shared,
            },
        }

    def _sizes(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the units of the hidden layers of encoder and decoder."""
        encoder = self._hidden_sizes("hidden_layer_sizes")
        if self.decoder_hidden_layer_sizes is None:
            return encoder, encoder[::-1]
        return encoder, self._hidden_sizes("decoder_hidden_layer_sizes")

    def _make_network(self, X, device) -> Autoencoder:
        network = Autoencoder(**self._network_config(X), device=device)
        self.n_layers_ = len(network.linear_layers()) + 1
        return network

    def _initial_activations(self) -> list[str]:
        config = self.module_.config
        return [
            *config["encoder"]["activations"],
            self.code_activation,
            *config["decoder"]["activations"],
            self.out_activation_,
        ]

    def _make_loss(self) -> Loss:
        return reconstruction_loss(self.loss)

    def _fixed_parameters(self):
        return {**super()._fixed_parameters(), "output_activation": self.output_activation}

    def _validation_scoring(self):
        return "loss" if self.scoring is None else self.scoring

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        kept = {"auto": ["float64", "float32"], "float64": ["float64"]}
        tags.transformer_tags.preserves_dtype = kept.get(self.dtype, ["float32"])
        return tags
