"""The regressor."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor

from sknn_deep._engine.distributions import (
    Quantiles,
    negative_log_likelihood,
    outputs_per_column,
    variance_of,
)
from sknn_deep._engine.features import Features
from sknn_deep._engine.losses import REGRESSION_LOSSES, Loss, regression_loss
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.array_api import by_torch, keeps_namespace, like, through_numpy
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.column_statistics import warn_of_coarse
from sknn_deep._estimators.fitted_attributes import FittedRegressor
from sknn_deep._estimators.fitted_state import REGRESSOR_STATE
from sknn_deep._estimators.intervals import at_level, conformal_quantile, widened
from sknn_deep._estimators.not_numbers import refuse_missing_targets
from sknn_deep._estimators.supervised import BaseDeepMLP, SupervisedParameters, column_as_1d
from sknn_deep._estimators.target_scale import is_poor, is_poor_distribution, odd_size
from sknn_deep._estimators.types import Activations, MatrixLike, RegressionLossName
from sknn_deep._networks.number_inputs import centers_and_scales
from sknn_deep._sklearn import Interval, StrOptions, available_if, fit_context, with_callbacks
from sknn_deep._wording import counted


@dataclass(eq=False, repr=False)
class RegressorParameters(SupervisedParameters):
    """The parameters of :class:`DeepMLPRegressor`, which explains them."""

    loss: RegressionLossName = "squared_error"
    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: Activations = "relu"
    quantile: float = field(default=0.5, kw_only=True)
    quantiles: Sequence[float] | None = field(default=None, kw_only=True)
    huber_delta: float = field(default=1.0, kw_only=True)
    target_scaling: Literal["standard"] | None = field(default=None, kw_only=True)


class DeepMLPRegressor(RegressorParameters, FittedRegressor, RegressorMixin, BaseDeepMLP):
    """Multilayer perceptron regressor: scikit-learn's, on torch.

    Everything that works with scikit-learn's ``MLPRegressor`` works here after a change of
    the import, follows the same training trajectory for the same integer
    ``random_state``, and runs on a GPU where there is one.

    Parameters
    ----------
    loss : str, default="squared_error"
        "squared_error" and "poisson" are halved, as in scikit-learn; "poisson" predicts
        through an exponential and needs ``y >= 0``. "absolute_error" and "huber" are
        robust to outliers, "quantile" estimates the level ``quantile``, or all of ``quantiles``.
        "normal" learns a mean and a variance for each row, which ``predict`` returns with
        ``return_std=True``.

    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer. ``()`` gives linear regression.

    activation : str or sequence of str, default="relu"
        Activation of the hidden layers, or one name per hidden layer: "identity",
        "logistic", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish" or
        "softplus". Smooth ones such as "gelu" and "silu" often fit smooth functions better.

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
        over 30 % of them from a 25th of ``learning_rate_init``. "flat_cosine" falls in the second
        half only, and "coslog4" rises and falls four times, each time over twice as many epochs
        [7]_. All four run to the end unless early stopping intervenes, and reach a given accuracy
        in far fewer epochs than a constant rate.

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
        fold. An ensemble splits once for all networks.

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
        What early stopping maximises. None is R² (for ``TabularMLPRegressor`` the negative mean
        absolute error), or with ``loss="normal"`` and ``quantiles`` the negative validation loss,
        as "loss" is; otherwise the name of a scorer, or a callable ``scorer(estimator, X, y)``,
        which is passed ``sample_weight`` if it accepts it.

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

    init_from : AutoencoderTransformer or None, default=None
        A fitted autoencoder whose encoder gives the first layers their initial weights, for few
        labels and many unlabelled rows: ``hidden_layer_sizes`` must begin with the encoder's, and
        the weights of its code are used, too, if a layer of as many units follows. Activation and
        normalisation must be the encoder's. Without normalisation each layer is scaled so that its
        outputs have a standard deviation of one, which suits the usual learning rates. Later layers
        are initialised as usual. For searches, cross-validation and anything else that clones, pass
        ``sklearn.frozen.FrozenEstimator(autoencoder)``: ``clone`` makes unfitted copies of other
        estimators.

    n_networks : int, default=1
        Number of networks to train, each with its own seed, drawn from ``random_state``. More than
        one form a deep ensemble [5]_: its prediction is the mean of theirs, more accurate than that
        of one network, and ``predict(X, return_std=True)`` also returns how far they disagree. 5 to
        10 is usual. They take at most as long as that many fits, and less if they are small and
        trained as one stack.

    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Features that hold categories: by name or number, or as a mask. "from_dtype" takes text and
        categorical columns of a pandas or polars frame, and columns of an object array that hold
        text. None treats all features as numbers. Categories not seen in training have a code of
        their own, and so do missing values.

    allow_nan : bool, default=False
        Whether numbers may be missing (NaN, None, NA of nullable types). They are replaced by a
        learned value and an indicator, or with ``numeric_embedding`` by a learned vector.

    scaling : {"standard", "robust"} or None, default=None
        How numbers are scaled inside the network, from statistics of the training rows (without
        those held out): "standard" by mean and standard deviation; "robust" by median and
        interquartile range, with a smooth clip to plus and minus 3 that limits outliers [7]_. Not
        for sparse X of more than 10,000 features.

    numeric_embedding : {"piecewise_linear", "periodic"} or None, default=None
        Turn each number into a vector of length ``numeric_embedding_size``, learned with the
        network [6]_: a piecewise linear function with ``n_bins`` pieces between quantiles of the
        training rows, or a sum of ``n_frequencies`` cosines with learned frequencies. On most
        tables "piecewise_linear" gains more than any other parameter.

    numeric_embedding_size : int, default=12
        Length of these vectors.

    n_bins : int, default=48
        Largest number of pieces of "piecewise_linear". Few rows give fewer: one for each hundred,
        but at least eight.

    n_frequencies : int, default=16
        Number of cosines of "periodic".

    frequency_scale : float, default=0.1
        Standard deviation of their initial frequencies; larger values resolve finer details.

    max_one_hot : int, default=9
        Features with at most this many categories are one-hot encoded. Those with more have learned
        vectors; categories with fewer than five rows share one [8]_.

    category_embedding_size : int, default=8
        Length of the learned vectors of categories.

    embedding_weight_decay : float, default=0.0
        Decoupled weight decay of the vectors of categories, and of those of numbers except for
        their linear part. Reduces overfitting on small tables; 0.1 to 1 is usual.

    learned_scales : bool, default=False
        Whether each input of the first layer has a scale that is trained, at six times the
        learning rate of Adam [7]_, so that the network quickly learns to ignore useless inputs.

    quantile : float, default=0.5
        Level that ``loss="quantile"`` estimates, in (0, 1).

    quantiles : sequence of float or None, default=None
        Levels that ``loss="quantile"`` estimates together, ascending, such as
        ``[0.05, 0.5, 0.95]``; ``quantile`` is then ignored. They share one network and never cross.
        ``predict`` returns the median, which is learned in any case, ``predict_quantiles`` all of
        them.

    huber_delta : float, default=1.0
        Residual, in units of the target, at which ``loss="huber"`` turns from square to
        linear.

    target_scaling : "standard" or None, default=None
        Whether to standardise targets for the network: subtract the mean of the training rows and
        divide by their standard deviation. Predictions and scores are in the units of y, losses
        (``loss_curve_``, ``validation_loss_curve_``, ``huber_delta``) in the scaled ones.

    Attributes
    ----------
    coefs_ : list of ndarray of shape (n_in, n_out)
        Weight matrix of each layer, a view of the network's weights on the CPU.

    intercepts_ : list of ndarray of shape (n_out,)
        Bias of each layer.

    module_ : torch.nn.Module
        The fitted network, from the features to its raw output (before
        ``out_activation_``), in evaluation mode.

    history_ : skorch.history.History
        One row per epoch (none with L-BFGS): "train_loss", "dur" (seconds) and, with a validation
        set, "valid_loss" and "valid_score"; with skorch callbacks also the loss of each batch.

    loss_ : float
        Loss of the last epoch, penalty included.

    loss_curve_ : list of float
        Loss of each epoch.

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
        Number of layers, input and output included.

    n_outputs_ : int
        Columns of the target. The output layer has as many units, with ``loss="normal"`` twice as
        many, and with ``quantiles`` as many for each level.

    out_activation_ : str
        "identity", "exp" with ``loss="poisson"``, "normal" with ``loss="normal"``, or "quantiles".

    quantiles_ : ndarray of shape (n_quantiles,)
        The levels of the columns of ``predict_quantiles``, with ``quantiles`` only.

    device_ : str
        Where the network is.

    is_categorical_ : ndarray of shape (`n_features_in_`,) or None
        Mask of the features that hold categories, or None where there are none.

    target_center_, target_scale_ : ndarray of shape (`n_outputs_`,)
        Subtracted from the targets, and their divisor; with ``target_scaling`` only.

    estimators_ : list of DeepMLPRegressor
        The networks of an ensemble, each the same as from a separate fit with its parameters and
        seed. Only with ``n_networks`` above 1. The ensemble itself has ``n_iter_`` (the most of any
        network), ``n_outputs_``, ``out_activation_``, ``quantiles_``, ``n_features_in_`` and
        ``feature_names_in_``; every other attribute belongs to a network, such as
        ``estimators_[0].loss_curve_``.

    n_features_in_ : int
        Number of features seen during ``fit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings.

    See Also
    --------
    DeepMLPClassifier : The same for classes.
    AutoencoderTransformer : Dense networks that reduce the dimension.

    Notes
    -----
    With several outputs the gradient is that of the sum over the outputs, as in
    scikit-learn, and ``loss_curve_`` reports the mean over them; "poisson" reports the
    sum. "normal" reports the negative log-likelihood, its constant included, and ``quantiles`` the
    mean over the levels.

    Scale the target to unit variance, as ``target_scaling="standard"`` does: initial outputs,
    ``learning_rate_init`` and ``tol`` suit that scale. If a target of another scale could not be
    learned, a ``ConvergenceWarning`` says so.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep
       feedforward neural networks. AISTATS.
    .. [2] D. Kingma, J. Ba (2015). Adam: a method for stochastic optimization. ICLR.
    .. [3] P. Huber (1964). Robust estimation of a location parameter. Ann. Math. Stat. 35.
    .. [4] R. Koenker, G. Bassett (1978). Regression quantiles. Econometrica 46.
    .. [5] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
       uncertainty estimation using deep ensembles. NeurIPS.
    .. [6] Y. Gorishniy, I. Rubachev, A. Babenko (2022). On embeddings for numerical features
       in tabular deep learning. NeurIPS.
    .. [7] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong
       pre-tuned MLPs and boosted trees on tabular data. NeurIPS.
    .. [8] C. Guo, F. Berkhahn (2016). Entity embeddings of categorical variables.
       arXiv:1604.06737.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.model_selection import train_test_split
    >>> from sknn_deep import DeepMLPRegressor
    >>> X, y = make_regression(n_samples=500, n_features=10, noise=1.0, random_state=0)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y / y.std(), random_state=0)
    >>> regressor = DeepMLPRegressor(
    ...     hidden_layer_sizes=(64, 64), solver="lbfgs", random_state=0
    ... ).fit(X_train, y_train)
    >>> regressor.score(X_test, y_test) > 0.9
    True

    Far from the data several networks disagree:

    >>> ensemble = regressor.set_params(n_networks=5).fit(X_train, y_train)
    >>> y_pred, std = ensemble.predict(X_test, return_std=True)
    >>> _, std_far = ensemble.predict(5 * X_test, return_std=True)
    >>> bool(std.mean() < std_far.mean())
    True

    Intervals that hold nine of ten targets, by rows that are held out:

    >>> regressor = DeepMLPRegressor(
    ...     "normal", (64, 64), learning_rate="one_cycle", learning_rate_init=0.01, batch_size=32,
    ...     early_stopping=True, validation_fraction=0.2, random_state=0,
    ... ).fit(X_train, y_train)
    >>> low, high = regressor.predict_interval(X_test, coverage=0.9).T
    >>> bool(0.8 < ((low <= y_test) & (y_test <= high)).mean() < 0.98)
    True
    """

    _trains_in_stacks = True
    _fitted_state: ClassVar = REGRESSOR_STATE
    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepMLP._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION_LOSSES))],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "quantiles": ["array-like", None],
        "huber_delta": [Interval(Real, 0, None, closed="neither")],
        "target_scaling": [StrOptions({"standard"}), None],
    }

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: "MatrixLike",
        y: "ArrayLike",
        sample_weight: "ArrayLike | None" = None,
        *,
        X_val: "MatrixLike | None" = None,
        y_val: "ArrayLike | None" = None,
        sample_weight_val: "ArrayLike | None" = None,
        groups: "ArrayLike | None" = None,
    ) -> Self:
        """Fit the network to data and targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data. Passing it switches early stopping on: the validation score
            decides when to stop, and the best weights are restored. ``GridSearchCV``
            slices it by fold if it has as many rows as X.

        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_outputs), default=None
            Targets of the validation data.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        groups : array-like of shape (n_samples,), default=None
            The group of each row, for ``validation_splitter``: the patient, for example.

        Returns
        -------
        self : DeepMLPRegressor

        Raises
        ------
        ValueError
            If the input is invalid, or training diverges to a loss or weights that are not finite
            and there are no best weights to restore. An earlier fit is kept.
        KeyboardInterrupt
            If the user interrupts before the first step, or within a search.
        """
        self._fit(Call(X, y, sample_weight, X_val, y_val, sample_weight_val, groups=groups))
        return self

    @available_if(lambda est: est._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: "MatrixLike",
        y: "ArrayLike",
        sample_weight: "ArrayLike | None" = None,
        *,
        X_val: "MatrixLike | None" = None,
        y_val: "ArrayLike | None" = None,
        sample_weight_val: "ArrayLike | None" = None,
    ) -> Self:
        """Train one epoch on the given data.

        A validation set is evaluated after the epoch and added to ``validation_scores_`` and
        ``validation_loss_curve_``. It neither stops training nor restores earlier weights.

        The schedules "cosine" and "one_cycle" count the calls as epochs: after
        ``max_iter`` calls the learning rate is zero.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Target values.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data, on which loss and score are recorded after the epoch.

        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_outputs), default=None
            Targets of the validation data.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        Returns
        -------
        self : DeepMLPRegressor
        """
        self._fit(Call(X, y, sample_weight, X_val, y_val, sample_weight_val, incremental=True))
        return self

    @overload
    def predict(self, X: "MatrixLike", *, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def predict(
        self, X: "MatrixLike", *, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    @overload
    def predict(
        self, X: "MatrixLike", *, return_std: bool
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]: ...

    @keeps_namespace
    def predict(
        self, X: "MatrixLike", *, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predict the targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        return_std : bool, default=False
            Whether to return the uncertainty of the predictions as well. Needs ``loss="normal"``,
            or at least two networks, whose disagreement is returned.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the network's floating-point type; the mean over the networks of an
            ensemble. With ``quantiles`` the median.

        std : ndarray of the shape of y
            Only with ``return_std=True``. With ``loss="normal"`` the standard deviation of the
            target; for an ensemble, that of the mixture of its distributions, whose variance is the
            mean of the variances plus the variance of the means. With another loss, the standard
            deviation over the networks (population standard deviation, ``ddof=0``).
        """
        X = self._validate_input(X, check_later=not return_std)
        if not return_std:
            return self._prediction(X)
        if len(self._networks) == 1 and self.out_activation_ != "normal":
            raise ValueError(
                "return_std=True needs several networks to compare, but one was fitted; "
                "fit an ensemble, for example with n_networks=5. For the standard deviation of the "
                "target itself fit with loss='normal'."
            )
        return self._mean_and_std(X)

    @available_if(lambda est: est._check_quantiles())
    @through_numpy
    def predict_quantiles(self, X: "MatrixLike") -> np.ndarray:
        """Predict the quantiles of the target whose levels are ``quantiles``.

        Only with ``quantiles``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        quantiles : ndarray of shape (n_samples, n_quantiles) or (n_samples, n_outputs, n_quantiles)
            One column for each level, ascending in every row. For an ensemble, the mean over its
            networks, level by level.
        """
        quantiles = self._all_quantiles(self._validate_input(X))
        asked_for = np.isin(Quantiles(self.quantiles_).levels, self.quantiles_)
        return self._without_outputs(quantiles[..., asked_for])

    @through_numpy
    def predict_interval(self, X: "MatrixLike", coverage: float = 0.9) -> np.ndarray:
        """Predict an interval that holds the target with a given probability.

        The interval is widened according to the errors on rows held out from training (split
        conformal prediction [1]_), so it holds the stated share of targets however good the network
        is, as long as new rows are like the held-out ones. Its width depends on the loss: one width
        for all rows, but with ``loss="normal"`` in proportion to the standard deviation, and with
        ``quantiles`` from the quantiles at both ends [2]_.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        coverage : float, default=0.9
            Share of the targets that the intervals should hold, in (0, 1). Each of several outputs
            has its own intervals.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2) or (n_samples, n_outputs, 2)
            Lower and upper end.

        Raises
        ------
        ValueError
            If no rows were held out in the last fit, or too few for the coverage.

        Notes
        -----
        A coverage of 0.9 needs at least nine held-out rows; with 1,000 of them the share of targets
        held varies by one percentage point from fit to fit. Each row counts once, whatever its
        weight. With ``loss="normal"`` and ``quantiles`` the networks of an ensemble hold out the
        same rows. With the other losses each has rows of its own, and the ensemble is judged by the
        errors of single networks, which are larger: its intervals hold a few more targets than
        stated. Pass ``X_val`` and ``y_val`` to ``fit``, or a ``validation_splitter``, for the same
        rows in all.

        References
        ----------
        .. [1] J. Lei, M. G'Sell, A. Rinaldo, R. Tibshirani, L. Wasserman (2018). Distribution-free
           predictive inference for regression. Journal of the American Statistical Association 113.
        .. [2] Y. Romano, E. Patterson, E. Candès (2019). Conformalized quantile regression.
           NeurIPS.
        """
        X = self._validate_input(X)
        if not (isinstance(coverage, Real) and 0 < coverage < 1):
            raise ValueError(f"coverage must be a number between 0 and 1, got {coverage!r}.")
        errors = vars(self).get("_held_out_errors")
        if errors is None:
            raise ValueError(
                "predict_interval needs rows that were held out from training, and the last call "
                "held out none: set early_stopping=True, or pass X_val and y_val to fit (or to "
                "partial_fit), with a stochastic solver."
            )
        if self.out_activation_ == "quantiles":
            levels = np.array(Quantiles(self.quantiles_).levels)
            both = (1 - coverage) / 2, (1 + coverage) / 2
            quantiles = self._all_quantiles(X)
            lower, upper = (at_level(quantiles, levels, level) for level in both)
            below, above = (at_level(errors, levels, level) for level in both)
            intervals = widened(
                lower, upper, conformal_quantile(np.maximum(below, -above), coverage)
            )
        else:
            values, unit = self._values_and_units(X)
            margin = conformal_quantile(errors[..., 0], coverage)
            intervals = widened(values, values, margin * unit)
        if self.out_activation_ == "exp":
            intervals = intervals.clip(0)
        return self._without_outputs(intervals)

    @np.errstate(over="ignore", invalid="ignore")  # as in validation after an epoch
    def _learn_from_held_out(
        self, X: Features, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> None:
        # at most three numbers per row are stored; keeping the rows would store the data set
        target = np.asarray(y).reshape(len(X), self.n_outputs_)
        if self.out_activation_ == "quantiles":
            errors = self._all_quantiles(X) - target[..., np.newaxis]
        else:
            values, unit = self._values_and_units(X)
            errors = (np.abs(values - target) / unit)[..., np.newaxis]
        if sample_weight is not None:
            errors = errors[sample_weight > 0]
        self._held_out_errors = errors.astype(self._network_dtype, copy=False)

    def _holds_out_together(self) -> bool:
        # the errors of single networks would make the ensemble's intervals a third too wide
        is_distribution = self._output_activation() in ("normal", "quantiles")
        return (self.early_stopping and is_distribution) or super()._holds_out_together()

    def _pool_held_out(self) -> None:
        errors = [vars(network).get("_held_out_errors") for network in self._networks]
        if all(part is not None for part in errors):
            self._held_out_errors = np.concatenate(errors)

    def _prediction(self, X: Features) -> np.ndarray:
        """Return the mean prediction of the networks for validated rows."""
        raws = self._map_networks(None, X)
        # each network has its own target scale
        pairs = zip(self._networks, raws, strict=True)
        return self._mean(network._values(raw) for network, raw in pairs)

    def _mean_and_std(self, X: Features) -> tuple[Any, Any]:
        """Return mean and standard deviation, as ``predict`` does with ``return_std=True``."""
        raws = list(self._map_networks(None, X))
        pairs = list(zip(self._networks, raws, strict=True))
        predictions = [network._values(raw) for network, raw in pairs]
        y = self._mean(predictions)
        variance = self._mean((prediction - y) ** 2 for prediction in predictions)
        if self.out_activation_ == "normal":
            variance = variance + self._mean(network._variances(raw) for network, raw in pairs)
        return y, variance**0.5

    def _values_and_units(self, X: Features) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions and the units of their errors, both (n_rows, n_outputs)."""
        shape = len(X), self.n_outputs_
        if self.out_activation_ == "normal":
            values, std = self._mean_and_std(X)
            return values.reshape(shape), std.reshape(shape)
        values = self._prediction(X).reshape(shape)
        return values, np.ones_like(values[:1])

    def _all_quantiles(self, X: Features) -> np.ndarray:
        """Return the quantiles that were learned, (n_rows, n_outputs, n_levels)."""
        raws = self._map_networks(None, X)
        pairs = zip(self._networks, raws, strict=True)
        return self._mean(network._quantiles_of(raw) for network, raw in pairs)

    def _quantiles_of(self, raw: np.ndarray) -> np.ndarray:
        """Convert raw output to quantiles, (n_rows, n_outputs, n_levels)."""
        values = Quantiles(self.quantiles_).of(torch.from_numpy(raw)).numpy()
        return np.ascontiguousarray(self._unscaled(values).swapaxes(1, 2))

    def _variances(self, raw: Any) -> Any:
        """Convert raw output to the variance of the target."""
        variances = by_torch(variance_of, raw[:, self.n_outputs_ :])
        if self._has_target_scale:
            variances = variances * like(vars(self)["target_scale_"], variances) ** 2
        return variances.ravel() if self.n_outputs_ == 1 else variances

    def _without_outputs(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers of shape (n_rows, n_outputs, n) as (n_rows, n) if there is one output."""
        return numbers[:, 0] if self.n_outputs_ == 1 else numbers

    def _outputs(self, X: Features) -> np.ndarray:
        """Return the quantities that an ensemble averages, for validated rows.

        For normal distributions, these are the first two moments: their means are the moments of
        the mixture.
        """
        if self.out_activation_ == "quantiles":
            return self._all_quantiles(X)
        if self.out_activation_ == "normal":
            mean, std = (part.astype(float) for part in self._mean_and_std(X))
            return np.stack([mean, mean**2 + std**2], axis=-1)
        return self._prediction(X)

    def _loss_of_outputs(
        self, output: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> float:
        """Return the loss of predictions."""
        target = torch.from_numpy(y.astype(float).reshape(len(y), -1))
        if self.loss == "normal":
            moments = torch.from_numpy(output.reshape(*target.shape, 2))
            mean, square = moments.unbind(dim=-1)
            losses = negative_log_likelihood(mean, square - mean.square(), target).sum(dim=-1)
        elif self.quantiles is not None:
            quantiles = torch.from_numpy(output.swapaxes(1, 2))
            losses = Quantiles(self.quantiles).pinball(quantiles, target).sum(dim=-1)
        else:
            if self.loss == "poisson":
                output = np.log(output.clip(np.finfo(output.dtype).tiny))
            raw = torch.from_numpy(output.reshape(len(y), -1))
            losses = self._make_loss().per_sample(raw, target)
        return float(np.average(losses.numpy(), weights=weight))

    def _values(self, raw: Any) -> Any:
        """Convert raw output to predictions; for a distribution, its mean or median."""
        values = raw[:, : self.n_outputs_]
        if self.out_activation_ == "exp":
            values = values.exp() if isinstance(values, Tensor) else np.exp(values)
        values = self._unscaled(values)
        return values.ravel() if self.n_outputs_ == 1 else values

    def _unscaled(self, values: Any) -> Any:
        """Return numbers of shape (..., n_outputs) in the units of the target."""
        if not self._has_target_scale:
            return values
        own = vars(self)
        return values * like(own["target_scale_"], values) + like(own["target_center_"], values)

    def _validate_training_data(
        self, call: Call, dtypes: list[type], *, reset: bool
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        X, y, targets = self._validate_triple(call.X, call.y, dtypes, reset)
        if not reset and targets.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {counted(targets.shape[1], 'output')} but the network was trained on "
                f"{self.n_outputs_}; pass the same columns in every call."
            )
        self.n_outputs_ = targets.shape[1]
        self.out_activation_ = self._output_activation()
        if self.quantiles is not None:
            self.quantiles_ = np.array(self.quantiles, dtype=np.float64)
        return X, y, targets

    def _planned_output(self, n_classes: int | None, n_outputs: int | None) -> tuple[int, str]:
        if n_classes is not None:
            raise ValueError(
                f"DeepMLPRegressor has no classes, got n_classes={n_classes}; pass n_outputs for "
                "the columns of its target."
            )
        return n_outputs or 1, self._output_activation()

    def _output_activation(self) -> str:
        of_loss = {"poisson": "exp", "normal": "normal"}.get(self.loss, "identity")
        return of_loss if self.quantiles is None else "quantiles"

    def _n_output_units(self) -> int:
        return self.n_outputs_ * outputs_per_column(self._output_activation(), self.quantiles)

    def _validate_held_out_data(
        self, X: Any, y: Any, dtype: type
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        X, y, targets = self._validate_triple(X, y, [dtype], reset=False)
        if self._validation_scoring() is None and X.shape[0] < 2:
            raise ValueError(
                "X_val has one row, on which R² is not defined; pass more rows or scoring='loss'."
            )
        if targets.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y_val has {counted(targets.shape[1], 'output')} but y has {self.n_outputs_}; "
                "pass the same columns in both."
            )
        return X, y, targets

    def _validate_triple(
        self, X: Any, y: Any, dtypes: list[type], reset: bool
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        is_validated = isinstance(X, Features)  # already validated by an ensemble
        if not is_validated:
            refuse_missing_targets(y)
        X, y = self._validate_rows(
            X, y, dtypes=dtypes, reset=reset, multi_output=True, y_numeric=True
        )
        y = column_as_1d(y)
        if y.dtype.kind not in "biuf":
            raise ValueError(
                f"y must hold numbers, got {y.dtype} such as {y.flat[0]!r}; "
                "use DeepMLPClassifier for labels."
            )
        if self.loss == "poisson" and np.min(y) < 0:
            raise ValueError(
                f"loss='poisson' needs y >= 0, got a smallest value of {np.min(y)}; "
                "choose another loss for targets that can be negative."
            )
        targets = np.ascontiguousarray(y.reshape(len(y), -1), dtype=X.dtype)
        if self.target_scaling is not None and not is_validated:
            warn_of_coarse(targets, ["y"] * targets.shape[1])
        return X, y, targets

    @property
    def _has_target_scale(self) -> bool:
        return "target_scale_" in vars(self)

    def _check_combinations(self, call: Call) -> None:
        super()._check_combinations(call)
        if self.target_scaling is not None and self.loss == "poisson":
            raise ValueError(
                "loss='poisson' needs counts as they are, got target_scaling="
                f"{self.target_scaling!r}; leave it at None."
            )
        if self.quantiles is not None:
            self._check_levels()

    def _check_levels(self) -> None:
        """Refuse quantiles without their loss, and invalid levels."""
        if self.loss != "quantile":
            raise ValueError(
                f"quantiles={self.quantiles!r} are levels of loss='quantile', got loss="
                f"{self.loss!r}; pass loss='quantile', or leave quantiles at None."
            )
        levels = np.asarray(self.quantiles)
        is_vector = levels.ndim == 1 and levels.size > 0 and levels.dtype.kind == "f"
        if not (is_vector and 0 < levels[0] and levels[-1] < 1 and (np.diff(levels) > 0).all()):
            raise ValueError(
                f"quantiles must be ascending levels between 0 and 1, such as [0.05, 0.5, 0.95], "
                f"got {self.quantiles!r}."
            )

    def _check_quantiles(self) -> bool:
        # once fitted, the fitted quantiles decide; the parameter may have been changed since
        levels = vars(self).get("quantiles_") if self.__sklearn_is_fitted__() else self.quantiles
        if levels is None:
            raise AttributeError(
                "predict_quantiles needs a fit with levels of quantiles: set loss='quantile' and "
                "for example quantiles=[0.05, 0.5, 0.95], and call fit."
            )
        return True

    def _learn_scales(self, samples: Samples, rows: np.ndarray | None) -> None:
        super()._learn_scales(samples, rows)
        if self.target_scaling is None:
            return
        targets: Any = samples.targets
        weight = samples.given_weight
        if rows is not None:
            targets, weight = targets[rows], None if weight is None else weight[rows]
        center, scale = centers_and_scales(targets.astype(np.float64), "standard", weight)
        self.target_center_, self.target_scale_ = (
            part.astype(targets.dtype) for part in (center, scale)
        )

    def _in_network_units(self, samples: Samples) -> Samples:
        if not self._has_target_scale:
            return samples
        targets = (samples.targets - self.target_center_) / self.target_scale_
        return samples._replace(targets=targets)

    def _fixed_parameters(self) -> dict[str, Any]:
        # with another output activation, the outputs would have another meaning
        levels = None if self.quantiles is None else [float(level) for level in self.quantiles]
        fixed = {
            "loss='poisson'": self.loss == "poisson",
            "loss='normal'": self.loss == "normal",
            "quantiles": levels,
            "target_scaling": self.target_scaling,
        }
        return {**super()._fixed_parameters(), **fixed}

    def _advice(  # type: ignore[override]  # a regressor always has targets
        self, targets: np.ndarray, weight: np.ndarray | None, loss_value: float
    ) -> str:
        is_as_it_is = self.loss != "poisson" and self.target_scaling is None
        size = odd_size(targets, weight) if is_as_it_is else None
        if size is None or not self._has_learned_little(targets, weight, loss_value):
            return ""
        return (
            "The network predicts hardly better than a constant. The target is of the order of "
            f"{size:g}, but initial outputs, learning_rate_init={self.learning_rate_init} and "
            f"tol={self.tol} are for targets of the order of 1. Scale it: pass "
            "target_scaling='standard'."
        )

    def _has_learned_little(
        self, targets: np.ndarray, weight: np.ndarray | None, loss_value: float
    ) -> bool:
        if self._output_activation() in ("normal", "quantiles"):
            return is_poor_distribution(loss_value, targets, weight, self.quantiles)
        level = {"absolute_error": 0.5, "huber": 0.5, "quantile": self.quantile}.get(self.loss)
        return is_poor(loss_value, self._make_loss(), targets, weight, level)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    def _make_loss(self) -> Loss:
        return regression_loss(
            self.loss,
            self.n_outputs_,
            quantile=self.quantile,
            huber_delta=self.huber_delta,
            quantiles=self.quantiles,
        )

    def _validation_scoring(self) -> Any:
        # R² would judge only the mean or median of a distribution
        is_distribution = self._output_activation() in ("normal", "quantiles")
        return "loss" if self.scoring is None and is_distribution else self.scoring

    def _default_score(
        self, raw: np.ndarray, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> float:
        if not np.isfinite(raw).all():
            return np.nan
        return r2_score(y, self._values(raw), sample_weight=sample_weight)
