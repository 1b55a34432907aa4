"""The autoencoder: dimensionality reduction by a dense network, as a transformer."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.device_rows import DeviceRows
from sknn_deep._engine.divided_rows import DividedRows
from sknn_deep._engine.encoded_rows import EncodedRows, TableEncoding
from sknn_deep._engine.features import Features
from sknn_deep._engine.losses import CodePenalty, Loss
from sknn_deep._engine.reconstruction_losses import RECONSTRUCTION_LOSSES, reconstruction_loss
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.array_api import as_numpy, keeps_namespace, taken_in
from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.code_description import describe_code
from sknn_deep._estimators.code_statistics import reconstruction_errors
from sknn_deep._estimators.column_statistics import (
    column_limits,
    column_means,
    refuse_wide_sparse,
    rows_to_scale_by,
)
from sknn_deep._estimators.fitted_attributes import FittedAutoencoder
from sknn_deep._estimators.fitted_state import AUTOENCODER_STATE
from sknn_deep._estimators.not_numbers import refuse_not_numbers
from sknn_deep._estimators.parameters import SharedParameters
from sknn_deep._estimators.rows import check_overflow, to_decode
from sknn_deep._estimators.table_columns import (
    TableColumns,
    as_table,
    check_inputs,
    feature_names,
    learn_columns,
)
from sknn_deep._estimators.types import (
    ActivationName,
    Activations,
    CategoricalFeatures,
    MatrixLike,
    NoiseKind,
    ReconstructionLossName,
    ScalingName,
    Seed,
)
from sknn_deep._networks.layers import ACTIVATIONS
from sknn_deep._networks.models import Autoencoder
from sknn_deep._networks.number_inputs import SCALINGS, centers_and_scales
from sknn_deep._sklearn import (
    Interval,
    StrOptions,
    available_if,
    check_sample_weight,
    fit_context,
    output_container,
    with_callbacks,
)
from sknn_deep._wording import counted


@dataclass(eq=False, repr=False)
class AutoencoderParameters(SharedParameters):
    """The parameters of :class:`AutoencoderTransformer`, which explains them."""

    n_components: int = 32
    hidden_layer_sizes: int | Sequence[int] = (128, 64)
    activation: Activations = "relu"
    _: KW_ONLY
    decoder_hidden_layer_sizes: int | Sequence[int] | None = None
    code_activation: ActivationName = "identity"
    output_activation: ActivationName | Literal["auto"] = "auto"
    loss: ReconstructionLossName = "squared_error"
    huber_delta: float = 1.0
    loss_weights: "ArrayLike | None" = None
    categorical_features: CategoricalFeatures = "from_dtype"
    allow_nan: bool = False
    scaling: ScalingName | None = None
    noise: float = 0.0
    noise_kind: NoiseKind = "gaussian"
    sparsity: float = 0.0
    contractive: float = 0.0
    tied_weights: bool = False
    variational: bool = False
    beta: float = 1.0
    order_code: bool = False
    contamination: float | Literal["auto"] = "auto"


class AutoencoderTransformer(
    AutoencoderParameters,
    FittedAutoencoder,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    OutlierMixin,
    BaseDeepNetwork,
):
    """Dimensionality reduction by an autoencoder.

    An encoder maps the features to a code of ``n_components`` units, a decoder maps the
    code back, and both learn together to reconstruct the data. ``transform`` gives the
    code: where PCA finds the best linear subspace, the code follows a curved one.

    Parameters
    ----------
    n_components : int, default=32
        Units of the code, the output dimension of ``transform``. More units than features are
        allowed, but compress nothing.

    hidden_layer_sizes : int or sequence of int, default=(128, 64)
        Units of the encoder's hidden layers. ``()`` encodes linearly.

    activation : str or sequence of str, default="relu"
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
        Strength of the L2 penalty on the weights, divided by the number of samples in the batch.
        Raise it to reduce overfitting.

    batch_size : int or "auto", default="auto"
        Samples per step of the stochastic solvers; "auto" is ``min(200, n_samples)``. Larger
        batches make epochs faster, but take more of them.

    learning_rate : str, default="constant"
        Schedule of the learning rate. "constant", "invscaling"
        (``learning_rate_init / (t + 1) ** power_t`` after t samples) and "adaptive" (divided by
        five whenever the stopping rule fires) work as in scikit-learn, the last two only with
        ``solver="sgd"``. "cosine" falls to zero over ``max_iter`` epochs; "one_cycle" first rises
        over 30 % of them from a 25th of ``learning_rate_init``. Both run to the end unless early
        stopping intervenes, and reach a given accuracy in far fewer epochs than a constant rate.

    learning_rate_init : float, default=0.001
        Initial learning rate; the peak of "cosine" and "one_cycle".

    power_t : float, default=0.5
        Exponent of "invscaling".

    max_iter : int, default=200
        Largest number of epochs, or of L-BFGS iterations.

    shuffle : bool, default=True
        Whether to permute the samples before each epoch. Early stopping draws held-out rows at
        random in either case, as in scikit-learn.

    random_state : int, RandomState instance or None, default=None
        Draws the initial weights, the validation split, the permutations and the dropout
        masks. An int gives the same network every time, whatever happens to the global
        random states (a large one only up to rounding if other processes compete for the cores);
        None draws from NumPy's, as in scikit-learn.

    tol : float, default=0.0001
        Smallest improvement of the training loss (of the
        validation score with early stopping) that counts for the stopping rule;
        the gradient tolerance of L-BFGS.

    verbose : bool or int, default=False
        Whether to print a line for each epoch: the loss, the validation score if there is one, and
        an upper bound on the remaining time.

    warm_start : bool, default=False
        Whether ``fit`` continues from the weights of the previous call. Parameters that do not
        shape the network, such as rates and dropout, may change in between.

    momentum : float, default=0.9
        Momentum of "sgd", in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether "sgd" uses Nesterov's momentum.

    early_stopping : bool, default=False
        Whether to hold out ``validation_fraction`` of the samples, stop when the
        validation score no longer improves, and restore the best weights. The samples are drawn at
        random even with ``shuffle=False``. A validation set passed to ``fit`` switches it on.

    validation_fraction : float, default=0.1
        Share of the samples that early stopping holds out. They are drawn at random even with
        ``shuffle=False``; for time series, pass the last rows as ``X_val``.

    validation_splitter : splitter or None, default=None
        Chooses the rows that early stopping holds out, instead of a random draw: any
        scikit-learn-compatible splitter, such as ``GroupShuffleSplit(n_splits=1)`` with ``groups``
        in ``fit``, or ``TimeSeriesSplit()``. The first split is used, for ``TimeSeriesSplit`` the
        last. The splitter is given the validated X, y and ``groups``; in a search, those of each
        fold.

    beta_1 : float, default=0.9
        Decay of the first moment of "adam" and its variants, in [0, 1).

    beta_2 : float, default=0.999
        Decay of the second moment, in [0, 1).

    epsilon : float, default=1e-08
        Keeps the denominator of "adam" and its variants from zero.

    n_iter_no_change : int, default=10
        Epochs in a row without an improvement of ``tol`` after which training stops;
        ``np.inf`` runs all ``max_iter`` epochs.

    max_fun : int, default=15000
        Largest number of L-BFGS function evaluations.

    dropout : float or sequence of float, default=0.0
        Probability with which a hidden unit is dropped during training, or one per
        hidden layer. Reduces overfitting; 0.1 to 0.5 is usual.

    dropout_schedule : {"constant", "flat_cosine"}, default="constant"
        Whether dropout stays as it is, or falls to zero along a cosine over the second half of
        ``max_iter`` epochs, which often makes a regression more accurate.

    normalization : {"batch", "layer"} or None, default=None
        Normalisation before each hidden activation: over the batch, or over the units of
        each sample. Allows larger learning rates.

    solver_params : dict or None, default=None
        Further arguments of the optimiser, such as ``{"amsgrad": True}`` for "adamw".

    weight_decay : float or None, default=None
        Decoupled weight decay of the stochastic solvers: each step shrinks the weights,
        not the biases, by the factor ``1 - learning rate * weight_decay``. None is 0.01
        for "adamw" and "muon" and 0 for all others.

    adam_learning_rate_init : float or None, default=None
        Learning rate of the parameters that ``solver="muon"`` leaves to Adam: biases, embeddings
        and the output layer. None uses ``learning_rate_init``. Schedules keep the ratio of the two.

    max_grad_norm : float or None, default=None
        Euclidean norm to which longer gradients are clipped. Stabilises training when the loss
        jumps.

    ema_decay : float or None, default=None
        Decay of an exponential moving average of the weights over the steps. Validation, callbacks,
        predictions and the fitted network all use the average. 0.99 to 0.999 is usual. It helps
        most at a constant learning rate; after a rate that falls to zero there is little to
        average. Not for ``partial_fit``.

    scoring : str, callable or None, default=None
        What early stopping maximises. None is "loss"; "loss"
        is the negative validation loss; otherwise the name of a scorer, or a callable
        ``scorer(estimator, X, y)``, which is passed ``sample_weight`` if it accepts it.

    device : str or torch.device, default="auto"
        Where to train and predict: "cpu", "cuda", "cuda:1" or "mps". "auto" is the first
        CUDA device if there is one, otherwise the CPU.

    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Floating-point type of the network. "auto" follows X on the CPU (float32 stays
        float32, anything else becomes float64) and is float32 on a GPU. On the CPU float32 trains
        faster and takes half the memory. "bfloat16" rounds the factors of matrix products to that
        type, two to three significant digits, and activations and biases between two wide layers
        where the activation does not saturate and there is neither dropout nor normalisation. All
        else, including weights and outputs, is float32. Training is faster on recent GPUs; on CPUs
        with AVX512-BF16 or AMX training and predictions take about half the time where layers are
        wide and batches large, and small layers stay in float32. On other CPUs it would be slower,
        so a warning is issued and the computation is in float32.

    float32_precision : {"highest", "high"} or None, default=None
        Precision of a GPU's matrix products in float32 training. "high" allows TF32: faster on
        NVIDIA's GPUs since Ampere, with three to four significant digits in each product. The
        setting is global in torch: it is changed during a fit and restored afterwards. None leaves
        it as it is.

    n_processes : int or "torchrun", default=1
        Number of processes that train the network together, each on a part of every batch. The
        weights equal those of one process up to rounding. It pays for networks of a million
        weights or more, or with a GPU for each process. A number starts the processes on this
        machine; only the calling process runs ``callbacks`` and prints. "torchrun" uses the
        processes started by torchrun or ``torch.distributed.init_process_group``: each must call
        ``fit`` with the same data, and each has the fitted network afterwards.

    callbacks : list of skorch callbacks or None, default=None
        Such as ``skorch.callbacks.LRScheduler()``. scikit-learn's own callbacks are
        registered with ``set_callbacks``.

    decoder_hidden_layer_sizes : int, sequence of int or None, default=None
        Units of the decoder's hidden layers; None mirrors the encoder's.

    code_activation : str, default="identity"
        Activation of the code. With "identity" no unit of the code can die, as the units
        of a "relu" code do; "tanh" and "logistic" bound the code.

    output_activation : str, default="auto"
        Activation of the output: "auto", or a name of ``activation``. "auto" is
        "logistic" when the training data lie in [0, 1] (pixels, scaled features), else
        "identity", as always with categories or ``scaling``.

    loss : str, default="squared_error"
        What training minimises, the mean over the features: "squared_error", neither halved
        nor summed; "absolute_error" and "huber", which outliers distort less; "log_loss",
        the binary cross entropy of features in [0, 1] with a logistic output; or "cosine",
        one minus the cosine between a row and its reconstruction, for rows whose direction alone
        matters (word counts, embeddings). The loss of a column of categories is the cross entropy
        of its softmax, whatever the loss of the numbers, and the column counts as one feature;
        "log_loss" and "cosine" do not support categories.

    huber_delta : float, default=1.0
        Residual, in units of the features, at which "huber" turns from square to linear.

    loss_weights : array-like of shape (n_features,) or None, default=None
        Non-negative weights of the features in that mean; only their ratios matter.
        Raise those of features that the code must keep.

    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns of X hold categories: "from_dtype" takes text and categorical columns of a
        frame, and text in an object array; otherwise give names, numbers or a mask of columns. None
        is no column. Each category has an indicator (of more than nine, those with at least five
        rows), and so does a missing value, which needs no ``allow_nan``. Unseen categories are all
        zeros.

    allow_nan : bool, default=False
        Whether X may have missing numbers (NaN). They are replaced by the mean of the training
        data, and left out of the loss and the errors; ``inverse_transform(transform(X))`` then
        imputes them.

    scaling : {"standard", "robust"} or None, default=None
        How numbers are centred and scaled first, so that all columns count equally: by mean and
        standard deviation, or by median and interquartile range with the smooth clip z / sqrt(1 +
        (z / 3)²). ``inverse_transform`` undoes it; losses, errors, scores and ``mean_`` are of
        scaled numbers. Scales come from all rows that ``fit`` is given as X.

    noise : float, default=0.0
        Corrupts the input during training, but not the target of the reconstruction: a denoising
        autoencoder [2]_, whose code is robust. For "gaussian" the standard deviation, in units of
        the features; otherwise the share of the features that are replaced, below 1. 0.1 to 0.5 is
        usual.

    noise_kind : {"gaussian", "masking", "salt_pepper"}, default="gaussian"
        "masking" sets features to zero, "salt_pepper" to the smallest or the largest value
        of the training data.

    sparsity : float, default=0.0
        Strength of a penalty on the mean absolute value of the code's units [3]_, which moves more
        of them to zero in each row. For features in [0, 1] try 0.001 to 0.01.

    contractive : float, default=0.0
        Strength of a penalty on the squared Frobenius norm of the encoder's Jacobian, over
        ``n_components`` [4]_: the code changes little where the input does. Estimated
        without bias from one random direction in each step. Epochs take two to three times as long,
        as with ``variational``.

    tied_weights : bool, default=False
        Whether the decoder's matrices are the encoder's, transposed: half the parameters.
        The decoder must mirror the encoder.

    variational : bool, default=False
        Whether the code is a normal distribution for each row, pulled towards the standard
        normal distribution [5]_, so that ``sample`` can draw new rows. ``transform`` gives
        the mean.

    beta : float, default=1.0
        Strength of that pull [6]_: the Kullback-Leibler divergence over ``n_features``, so
        that with "log_loss" 1 is the evidence lower bound. Lower it for sharper
        reconstructions and where units of the code die.

    order_code : bool, default=False
        Whether ``fit`` rotates the code to its principal axes after training: its units are then
        uncorrelated with mean 0, in the order of their variance, like PCA's components. The
        reconstructions stay the same. ``partial_fit`` does not rotate it.

    contamination : float or "auto", default="auto"
        Share of the training data that ``predict`` calls outliers, in (0, 0.5]. With "auto" these
        are rows with an unusual error: its cube root exceeds the upper quartile by more than the
        interquartile range, which happens for 2 % of ordinary rows. Nothing else depends on it.

    Attributes
    ----------
    module_ : torch.nn.Module
        The fitted network, in evaluation mode.

    encoder_, decoder_ : torch.nn.Module
        Its two halves: features to code, and code to features.

    mean_ : ndarray of shape (`n_features_in_`,)
        Mean of the training data, the baseline reconstruction of ``score``. For a table with
        categories, the mean of its encoded columns, named in ``encoded_feature_names_``.

    encoded_feature_names_ : ndarray of str
        Names of the network's inputs and outputs: numbers, then an indicator for each category.

    is_categorical_ : ndarray of bool, shape (`n_features_in_`,), or None
        The features that hold categories; None where none does.

    feature_center_, feature_scale_ : ndarray of shape (n_numbers,)
        Subtracted from the numbers, and their divisor; with ``scaling`` only.

    code_std_ : ndarray of shape (`n_components`,)
        Standard deviation of each unit of the code over the training data; for large sets over
        1,000 to 10,000 of its rows, unless ``order_code=True`` or ``shuffle=False``.

    n_dead_units_ : int
        Units of the code that have the same value for every row. ``fit`` warns about them.

    explained_variance_ : ndarray of shape (`n_components`,)
        How much each unit of the code adds to the explained variance of the features, with the
        units before it known and those after it at their mean; on 100 to 2,000 rows of the training
        data. A unit that only makes sense with later ones may be negative. With ``order_code=True``
        a linear autoencoder with tied weights has PCA's. Set by ``fit`` only.

    explained_variance_ratio_ : ndarray of shape (`n_components`,)
        As shares of the variance of the features; their sum is ``score`` of those rows.

    offset_ : float
        Threshold of ``score_samples`` below which a row is an outlier; ``decision_function`` is the
        score minus it. From all training rows, or with ``contamination="auto"`` from 100 to 2,000
        of them. Set by ``fit`` only.

    history_ : skorch.history.History
        One row per epoch (none with L-BFGS): "train_loss", "dur" (seconds) and, with a validation
        set, "valid_loss" and "valid_score".

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

    interrupted_ : bool
        Whether Ctrl-C ended the last call early.

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
    The schedule has the largest effect on the error that a given network reaches: try
    ``learning_rate="one_cycle"`` with ``learning_rate_init=0.01`` and ``batch_size=128`` first.

    Rows unlike the training data are reconstructed poorly, so the estimator is also an outlier
    detector with scikit-learn's conventions: ``predict`` is -1 for outliers and 1 for other rows.

    References
    ----------
    .. [1] G. Hinton, R. Salakhutdinov (2006). Reducing the dimensionality of data with
       neural networks. Science 313.
    .. [2] P. Vincent, H. Larochelle, I. Lajoie, Y. Bengio, P.-A. Manzagol (2010). Stacked
       denoising autoencoders. JMLR 11.
    .. [3] I. Goodfellow, Y. Bengio, A. Courville (2016). Deep Learning, section 14.2.1.
    .. [4] S. Rifai, P. Vincent, X. Muller, X. Glorot, Y. Bengio (2011). Contractive
       auto-encoders: explicit invariance during feature extraction. ICML.
    .. [5] D. Kingma, M. Welling (2014). Auto-encoding variational Bayes. ICLR.
    .. [6] I. Higgins et al. (2017). beta-VAE: learning basic visual concepts with a
       constrained variational framework. ICLR.

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

    _network_class = Autoencoder
    _trains_in_stacks = True
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
        "loss": [StrOptions(set(RECONSTRUCTION_LOSSES))],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "loss_weights": ["array-like", None],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "allow_nan": ["boolean"],
        "scaling": [StrOptions(set(SCALINGS)), None],
        "noise": [Interval(Real, 0, None, closed="left")],
        "noise_kind": [StrOptions({"gaussian", "masking", "salt_pepper"})],
        "sparsity": [Interval(Real, 0, None, closed="left")],
        "contractive": [Interval(Real, 0, None, closed="left")],
        "tied_weights": ["boolean"],
        "variational": ["boolean"],
        "beta": [Interval(Real, 0, None, closed="left")],
        "order_code": ["boolean"],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
    }

    _fitted_state: ClassVar = AUTOENCODER_STATE

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: "MatrixLike",
        y: object = None,
        sample_weight: "ArrayLike | None" = None,
        *,
        X_val: "MatrixLike | None" = None,
        sample_weight_val: "ArrayLike | None" = None,
        groups: "ArrayLike | None" = None,
    ) -> Self:
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

        groups : array-like of shape (n_samples,), default=None
            The group of each row, for ``validation_splitter``: the patient, for example.

        Returns
        -------
        self : AutoencoderTransformer

        Raises
        ------
        ValueError
            If the input is invalid, or training diverges to a loss or weights that are not finite
            and there are no best weights to restore. An earlier fit is kept.
        KeyboardInterrupt
            If the user interrupts before the first step, or within a search.
        """
        self._fit(Call(X, None, sample_weight, X_val, None, sample_weight_val, groups=groups))
        return self

    @available_if(lambda est: est._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: "MatrixLike",
        y: object = None,
        sample_weight: "ArrayLike | None" = None,
        *,
        X_val: "MatrixLike | None" = None,
        sample_weight_val: "ArrayLike | None" = None,
    ) -> Self:
        """Train one epoch on the given data.

        A validation set is evaluated after the epoch and added to ``validation_scores_`` and
        ``validation_loss_curve_``. It neither stops training nor restores earlier weights.

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

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data, on which loss and score are recorded after the epoch.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        Returns
        -------
        self : AutoencoderTransformer
        """
        validation = X_val, None, sample_weight_val
        self._fit(Call(X, None, sample_weight, *validation, incremental=True))
        return self

    @property
    def encoded_feature_names_(self) -> np.ndarray:
        """Names of the network's inputs and outputs."""
        check_is_fitted(self)
        encoding = TableEncoding(self.n_features_in_, self._n_categories())
        names, columns = feature_names(self), self._columns
        found = [names[j] for j in encoding.numbers]
        for column, n_categories in encoding.categories:
            values = range(n_categories) if columns is None else columns.categories[column]
            found += [f"{names[column]}_{value}" for value in values]
        return np.array(found, dtype=object)

    @property
    def encoder_(self) -> nn.Module:
        """The half of the network that maps features, none of them missing, to the code."""
        check_is_fitted(self)
        return self.module_.encoder

    @property
    def decoder_(self) -> nn.Module:
        """The half of the network that maps the code to features."""
        check_is_fitted(self)
        return self.module_.decoder

    @keeps_namespace
    def transform(self, X: "MatrixLike") -> np.ndarray:
        """Encode the data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        codes : ndarray of shape (n_samples, n_components)
        """
        X = self._validate_input(X, check_later=True)
        network = self.module_
        codes = None
        if not network.fills:
            codes = self._output_by_numpy(network.encoder, X, network.flat.device)
        if codes is None:
            codes = self._map_rows(
                lambda rows: network.encode(rows, X.check), X, may_be_sparse=True
            )
            check_overflow(codes, X, "code")
        return codes

    @keeps_namespace
    def inverse_transform(self, X: "ArrayLike") -> Any:
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Codes, from ``transform`` or anywhere else.

        Returns
        -------
        reconstructions : ndarray of shape (n_samples, n_features), or DataFrame
            Numbers in their own units. A table with categories comes back as a table, with the most
            likely category of each row, None for a missing one. It is a pandas DataFrame, or a
            polars one after ``set_output(transform="polars")``, if ``fit`` was given a frame, and
            otherwise an array of objects.
        """
        check_is_fitted(self)
        refuse_not_numbers(self, X)
        codes = to_decode(self, X)
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {counted(codes.shape[1], 'column')}, but the code of this autoencoder has "
                f"{counted(self._n_features_out, 'unit')}; pass what transform returns."
            )
        decoded = self._map_rows(self.module_.decoder.outputs, codes)
        check_overflow(decoded, codes, "reconstruction", "Pass what transform returns")
        encoding = self._encoding
        if encoding is None:
            return decoded
        if isinstance(decoded, Tensor) and not encoding.categories:
            return encoding.decode_numbers(decoded)
        numbers, of_categories = encoding.decode(as_numpy(decoded))
        columns = self._columns
        if columns is None:
            return numbers
        names = vars(self).get("feature_names_in_")
        table = columns.decode(numbers, of_categories)
        return as_table(table, names, output_container(self), getattr(X, "index", None))

    @available_if(lambda est: est._check_variational())
    def sample(self, n_samples: int = 1, *, random_state: Seed | None = None) -> Any:
        """Draw new rows: codes from the standard normal distribution, decoded.

        Only with ``variational=True``.

        Parameters
        ----------
        n_samples : int, default=1
            How many.

        random_state : int, RandomState instance or None, default=None
            Draws the codes.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            As from ``inverse_transform``.
        """
        check_is_fitted(self)
        shape = (n_samples, self._n_features_out)
        codes = check_random_state(random_state).standard_normal(shape)
        return self.inverse_transform(codes)

    @keeps_namespace
    def reconstruction_error(self, X: "MatrixLike", *, per_feature: bool = False) -> np.ndarray:
        """Return the reconstruction error of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        per_feature : bool, default=False
            Return the error of each feature, which shows what is unusual about a row.

        Returns
        -------
        errors : ndarray of shape (n_samples,) or (n_samples, n_features)
            Mean squared error per feature, whatever ``loss`` is; or the squared error of each
            feature, NaN where it is missing. With ``scaling`` numbers are compared in scaled units.
            The error of a category is half the squared error of its indicators: 0 if the right
            category is predicted with certainty, 1 if a wrong one is.
        """
        X = self._validate_input(X)
        network = self.module_
        if not per_feature:
            return self._map_rows(lambda rows: reconstruction_errors(network, rows), X)
        of_columns = self._map_rows(
            lambda rows: network.squared_errors(network.reconstruct(rows), rows), X
        )
        encoding = self._encoding
        return of_columns if encoding is None else of_columns[:, encoding.places]

    @keeps_namespace
    def score_samples(self, X: "MatrixLike") -> np.ndarray:
        """Return the negative reconstruction error of each row: low for an outlier.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        return -self.reconstruction_error(X)

    @keeps_namespace
    def decision_function(self, X: "MatrixLike") -> np.ndarray:
        """Return the score of each row minus ``offset_``: negative for outliers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        return self.score_samples(X) - self._known_offset()

    @keeps_namespace
    def predict(self, X: "MatrixLike") -> np.ndarray:
        """Tell outliers from other rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        is_inlier : ndarray of shape (n_samples,)
            -1 for outliers, 1 for other rows.
        """
        is_outlier: Any = self.decision_function(X) < 0
        return 1 - 2 * is_outlier

    def score(
        self, X: "MatrixLike", y: object = None, sample_weight: "ArrayLike | None" = None
    ) -> float:
        """Return the share of the variance explained by the reconstruction.

        One minus the squared error of the reconstruction over that of ``mean_``, both as in
        ``reconstruction_error``. For the training data of a PCA the same figure is
        ``explained_variance_ratio_.sum()``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        y : None, default=None
            Ignored, present for the API's consistency.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            At most 1; 0 is the score of reconstructing the mean. NaN for data that do not vary
            about the mean, or whose squares are too large for the network's type.
        """
        X, sample_weight = self._validate_input(taken_in(X)), as_numpy(sample_weight)
        sample_weight = check_sample_weight(sample_weight, X)
        mean = torch.from_numpy(vars(self)["mean_"]).to(self.module_.flat.device)

        network = self.module_

        def errors(rows: Tensor) -> Tensor:
            guesses = network.reconstruct(rows), mean
            sums = [network.squared_errors(guess, rows).nansum(dim=1) for guess in guesses]
            return torch.stack(sums, dim=1) / network.n_columns

        both = as_numpy(self._map_rows(errors, X)).astype(np.float64)
        residual, spread = np.average(both, axis=0, weights=sample_weight)
        with np.errstate(invalid="ignore"):
            return float(1 - residual / spread) if spread > 0 else np.nan

    def _known_offset(self) -> float:
        if "offset_" not in vars(self):
            raise NotFittedError(
                "predict and decision_function need offset_, which is learned at the end of fit; "
                "partial_fit leaves none. Call fit, or compare score_samples(X) with a quantile of "
                "its values on ordinary rows. While training, score by scoring=None instead."
            )
        return self.offset_

    @property
    def _n_features_out(self) -> int:
        return self.module_.config["decoder"]["layer_units"][0]

    @property
    def _ensure_all_finite(self) -> bool | str:  # type: ignore[override]
        # a network fitted without allow_nan would propagate NaN, even if the parameter was set
        # later
        reads_gaps = "module_" not in vars(self) or self.module_.config["allow_nan"]
        return "allow-nan" if self.allow_nan and reads_gaps else True

    def _check_variational(self) -> bool:
        if not self.variational:
            raise AttributeError(
                "sample draws from the distribution of a variational code, got "
                f"variational={self.variational}; pass variational=True."
            )
        return True

    def _check_combinations(self, call: Call) -> None:
        for is_wrong, message in (
            (
                self.noise >= 1 and self.noise_kind != "gaussian",
                f"noise={self.noise} is the share of the features that noise_kind="
                f"{self.noise_kind!r} replaces; choose one below 1.",
            ),
            (
                self.loss == "log_loss" and self.output_activation not in ("auto", "logistic"),
                f"loss='log_loss' needs a logistic output, got output_activation="
                f"{self.output_activation!r}; leave it at 'auto'.",
            ),
            (
                self.tied_weights and self._sizes()[1] != self._sizes()[0][::-1],
                "tied_weights=True needs a decoder that mirrors the encoder, got "
                f"hidden_layer_sizes={self.hidden_layer_sizes} and decoder_hidden_layer_sizes="
                f"{self.decoder_hidden_layer_sizes}; leave the latter at None.",
            ),
            (
                (self.variational or self.order_code) and self.code_activation != "identity",
                f"{'variational' if self.variational else 'order_code'}=True needs a code without "
                f"an activation, got code_activation={self.code_activation!r}; leave it at "
                "'identity'.",
            ),
            (
                self.order_code and (self.variational or self.sparsity > 0),
                "order_code=True would turn the axes that variational=True and sparsity give a "
                f"meaning, got variational={self.variational} and sparsity={self.sparsity}; "
                "set order_code=False.",
            ),
            (
                self.dtype == "bfloat16" and (self.variational or self.contractive > 0),
                "dtype='bfloat16' supports neither variational=True nor contractive, got "
                f"variational={self.variational} and contractive={self.contractive}; choose "
                "dtype='float32'.",
            ),
        ):
            if is_wrong:
                raise ValueError(message)
        super()._check_combinations(call)

    def _sources_of_chance(self) -> list[tuple[str, bool]]:
        own = [
            (name, bool(getattr(self, name))) for name in ("noise", "contractive", "variational")
        ]
        return [*super()._sources_of_chance(), *own]

    def _reason_to_train_alone(self) -> str:
        names = ("allow_nan", "contractive", "tied_weights", "variational")
        used = [name for name in names if getattr(self, name)]
        used += ["loss_weights"] * (self.loss_weights is not None)
        return f"{', '.join(used)} is not supported in stacks" if used else ""

    def _validate_training_data(
        self, call: Call, dtypes: list[type], *, reset: bool
    ) -> tuple[Features, None, None]:
        X = self._validate_features(call.X, dtypes, reset, call.sample_weight)
        self._check_loss_weights(self.n_features_in_)
        if reset:
            self.out_activation_ = self.output_activation
            if self.output_activation == "auto":
                self.out_activation_ = "identity"
                if self._encoding is None:
                    low, high = X.limits()
                    self.out_activation_ = "logistic" if low >= 0 and high <= 1 else "identity"
        return X, None, None

    def _validate_features(
        self, X: Any, dtypes: list[type], reset: bool, sample_weight: Any = None
    ) -> Features:
        """Return encoded rows for training or validation; a new fit learns the encoding."""
        rows: Features = self._validate_rows(X, dtypes=dtypes, reset=reset)
        if reset:
            self._check_categories()
            self._learn_numbers(rows, check_sample_weight(sample_weight, rows))
        features = self._encoded(rows)
        check_inputs(features.shape[1])
        if self.loss == "log_loss":
            low, high = features.limits()
            if low < 0 or high > 1:
                raise ValueError(
                    f"loss='log_loss' needs features in [0, 1], got values from {low:g} to "
                    f"{high:g}; scale them with MinMaxScaler, or choose loss='squared_error'."
                )
        return features

    # ------------------------------------------------------------------ tables

    def _learn_columns(self, X: Any) -> TableColumns | None:
        return learn_columns(X, self.categorical_features)

    def _check_categories(self) -> None:
        """Refuse parameters that do not support columns of categories."""
        if self._columns is None:
            return
        for name, value, is_wrong in (
            ("loss", self.loss, self.loss in ("log_loss", "cosine")),
            (
                "output_activation",
                self.output_activation,
                self.output_activation not in ("auto", "identity"),
            ),
        ):
            if is_wrong:
                raise ValueError(
                    f"{name}={value!r} cannot be combined with categories, of which X has "
                    f"{counted(len(self._columns.categories), 'column')}: a category is "
                    f"reconstructed by a softmax, and a number as it is. Leave {name} at its "
                    "default, or encode them first, for example with OneHotEncoder."
                )

    def _learn_numbers(self, X: Features, weight: np.ndarray | None) -> None:
        """Learn the scales of the numbers."""
        encoding = TableEncoding(X.shape[1], self._n_categories())
        if self.scaling is None or not encoding.numbers:
            return
        refuse_wide_sparse(X, scaling=self.scaling)
        rows, weight = rows_to_scale_by(X, weight)
        numbers = rows[:, encoding.numbers].astype(np.float64)
        scales = centers_and_scales(numbers, self.scaling, weight)
        self.feature_center_, self.feature_scale_ = (part.astype(X.dtype) for part in scales)

    def _n_categories(self) -> Sequence[tuple[int, int]]:
        """Return each column of categories, and its number of categories."""
        state: dict[str, Any] = vars(self)
        if "module_" in state:
            return state["module_"].config["categories"]
        columns = state.get("_columns")
        return () if columns is None else tuple(columns.n_categories())

    @property
    def _encoding(self) -> TableEncoding | None:
        """The encoding of numbers and codes; None if they are used as they are."""
        state, categories = vars(self), self._n_categories()
        if not categories and "feature_scale_" not in state:
            return None
        scaling = state.get("_fixed", {"scaling": self.scaling})["scaling"]
        scales = state.get("feature_center_"), state.get("feature_scale_")
        return TableEncoding(self.n_features_in_, categories, *scales, scaling == "robust")

    def _encoded(self, features: Features) -> Features:
        encoding = self._encoding
        # rows passed on by a scorer are encoded already
        if encoding is None or isinstance(features, EncodedRows):
            return features
        if isinstance(features, DeviceRows):
            return features if features.is_encoded else features.encoded(encoding)
        if isinstance(features, DividedRows):
            if isinstance(features.own, EncodedRows):
                return features
            return features.with_own(EncodedRows(features.own, encoding))
        return EncodedRows(features, encoding)

    def _validate_input(self, X: Any, *, check_later: bool = False) -> Features:
        # an encoded table is also used outside the first layer
        check_later = check_later and self._encoding is None
        return self._encoded(super()._validate_input(X, check_later=check_later))

    def _check_loss_weights(self, n_features: int) -> None:
        if self.loss_weights is None:
            return
        weights = np.asarray(self.loss_weights, dtype=float)
        if weights.shape != (n_features,):
            raise ValueError(
                f"loss_weights has the shape {weights.shape}, but X has "
                f"{counted(n_features, 'feature')}; pass one weight for each."
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise ValueError(
                f"loss_weights={self.loss_weights} must be finite and non-negative, and not all "
                "zero."
            )

    def _planned_output(self, n_classes: int | None, n_outputs: int | None) -> tuple[None, str]:
        if n_classes is not None or n_outputs is not None:
            raise ValueError(
                "AutoencoderTransformer reconstructs its features and has no other outputs; got "
                f"n_classes={n_classes} and n_outputs={n_outputs}, leave both out."
            )
        return None, self.output_activation

    def _prepare_network(self, samples: Samples) -> None:
        self.mean_ = column_means(samples.X, samples.weight, self.allow_nan)
        corruption = self.module_.input
        if corruption is None:
            return
        if corruption.fill is not None:
            corruption.fill.copy_(torch.from_numpy(self.mean_))
        if corruption.noise is not None and corruption.noise.kind == "salt_pepper":
            low, high = map(torch.from_numpy, column_limits(samples.X))
            corruption.noise.low.copy_(low)
            corruption.noise.high.copy_(high)

    def _describe_training(self, batches: Batches | Chunk, incremental: bool) -> None:
        describe_code(self, batches, incremental)

    def _validate_held_out_data(self, X: Any, y: Any, dtype: type) -> tuple[Features, None, None]:
        return self._validate_features(X, [dtype], reset=False), None, None

    def _network_config(self, n_features: int, dtype: torch.dtype) -> dict[str, Any]:
        encoder, decoder = self._sizes()
        activations, dropout = self._layer_options(len(encoder) + len(decoder))
        shared = {"normalization": self.normalization, "dtype": dtype}
        n_encoder = len(encoder)
        return {
            "encoder": {
                "layer_units": (n_features, *encoder, int(self.n_components)),
                "activations": tuple(activations[:n_encoder]),
                "dropout": tuple(dropout[:n_encoder]),
                "out_activation": self.code_activation,
                **shared,
            },
            "decoder": {
                "layer_units": (int(self.n_components), *decoder, n_features),
                "activations": tuple(activations[n_encoder:]),
                "dropout": tuple(dropout[n_encoder:]),
                "out_activation": self.out_activation_,
                **shared,
            },
            "noise": (self.noise_kind, float(self.noise)) if self.noise else None,
            "allow_nan": self.allow_nan,
            "tied_weights": self.tied_weights,
            "variational": self.variational,
            "contractive": self.contractive > 0,
            "categories": self._n_categories(),
        }

    def _sizes(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the units of the hidden layers of encoder and decoder."""
        encoder = self._hidden_sizes("hidden_layer_sizes")
        if self.decoder_hidden_layer_sizes is None:
            return encoder, encoder[::-1]
        return encoder, self._hidden_sizes("decoder_hidden_layer_sizes")

    def _initial_activations(self) -> list[str]:
        config = self.module_.config
        return [
            *config["encoder"]["activations"],
            self.code_activation,
            *["identity"] * self.variational,
            *config["decoder"]["activations"],
            self.out_activation_,
        ]

    def _make_loss(self) -> Loss:
        weights, penalty = None, CodePenalty(self.sparsity, self.contractive, self.beta)
        if self.loss_weights is not None:
            flat = self.module_.flat
            encoding, own = self._encoding, np.asarray(self.loss_weights)
            own = own if encoding is None else own[encoding.columns]
            weights = torch.as_tensor(own, dtype=flat.dtype, device=flat.device)
        has_penalty = self.sparsity or self.contractive or self.variational
        return reconstruction_loss(
            self.loss,
            huber_delta=self.huber_delta,
            weights=weights,
            allow_nan=self.allow_nan,
            penalty=penalty if has_penalty else None,
            categories=[n for _, n in self.module_.config["categories"]],
        )

    def _fixed_parameters(self) -> dict[str, Any]:
        own = {"output_activation": self.output_activation, "scaling": self.scaling}
        return {**super()._fixed_parameters(), **own}

    def _validation_scoring(self) -> Any:
        return "loss" if self.scoring is None else self.scoring

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.allow_nan
        # tags are read before parameters are validated, so dtype may be anything
        kept = {"auto": ["float64", "float32"], "float64": ["float64"]}
        tags.transformer_tags.preserves_dtype = kept.get(str(self.dtype), ["float32"])
        return tags
