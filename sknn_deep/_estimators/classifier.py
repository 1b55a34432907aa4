"""The classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score, get_scorer_names
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import type_of_target, unique_labels
from torch import Tensor

from sknn_deep._engine.features import Features
from sknn_deep._engine.losses import MANY_CLASSES, Loss, classification_loss
from sknn_deep._estimators.array_api import as_numpy, by_torch, keeps_namespace
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitted_attributes import FittedClassifier
from sknn_deep._estimators.fitted_state import CLASSIFIER_STATE
from sknn_deep._estimators.not_numbers import refuse_missing_targets
from sknn_deep._estimators.supervised import BaseDeepMLP, SupervisedParameters, column_as_1d
from sknn_deep._estimators.temperature import best_temperature, calibrated_loss
from sknn_deep._estimators.types import Activations, MatrixLike
from sknn_deep._hardware.products import is_narrow
from sknn_deep._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    available_if,
    check_partial_fit_first_call,
    fit_context,
    with_callbacks,
)

# Up to this many numbers, NumPy computes probabilities in half of torch's time.
_FEW_NUMBERS = 1000


@dataclass(eq=False, repr=False)
class ClassifierParameters(SupervisedParameters):
    """The parameters of :class:`DeepMLPClassifier`, which explains them."""

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: Activations = "relu"
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = field(
        default=None, kw_only=True
    )
    label_smoothing: float = field(default=0.0, kw_only=True)
    calibration: Literal["auto", "temperature"] | None = field(default=None, kw_only=True)


class DeepMLPClassifier(ClassifierParameters, FittedClassifier, ClassifierMixin, BaseDeepMLP):
    """Multilayer perceptron classifier: scikit-learn's, on torch.

    Minimises the cross entropy of a softmax (or, for two classes and for multilabel
    targets, a logistic) output. Everything that works with scikit-learn's
    ``MLPClassifier`` works here after a change of the import, follows the same training
    trajectory for the same integer ``random_state``, and runs on a GPU where there is one.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Units of each hidden layer. ``()`` gives logistic regression.

    activation : str or sequence of str, default="relu"
        Activation of the hidden layers, or one name per hidden layer: "identity",
        "logistic", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish" or
        "softplus". Smooth ones such as "gelu" and "silu" often fit better on tabular data.

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
        ``shuffle=False``; for time series, pass the last rows as ``X_val``. Two classes are held
        out in proportion, as in scikit-learn. With more classes, or several labels, the rows are
        those that scikit-learn draws, unless they include all rows of a class: then half of these
        stay in training. For a stratified set pass ``validation_splitter="stratified"``.

    validation_splitter : splitter, "stratified" or None, default=None
        Chooses the rows that early stopping holds out, instead of a random draw: any
        scikit-learn-compatible splitter, such as ``GroupShuffleSplit(n_splits=1)`` with ``groups``
        in ``fit``, or ``TimeSeriesSplit()``. The first split is used, for ``TimeSeriesSplit`` the
        last. The splitter is given the validated X, y and ``groups``; in a search, those of each
        fold. An ensemble splits once for all networks. "stratified" holds out
        ``validation_fraction`` of each class, or of each combination of labels.

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
        What early stopping maximises. None is the accuracy; "loss" is the negative validation
        loss; "calibrated_loss" is the negative log loss on the validation set after temperature
        scaling, so that training goes on while an overconfident network still gets better at
        telling the classes apart [10]_; set ``calibration``, too. Otherwise the name of a scorer,
        or a callable ``scorer(estimator, X, y)``, which is passed ``sample_weight`` if it accepts
        it.

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
        one form a deep ensemble [5]_, which predicts the mean of their probabilities: more accurate
        than one network, and less confident where they disagree. 5 to 10 is usual. They take at
        most as long as that many fits, and less if they are small and trained as one stack.

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

    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss: a dict ``{class: weight}``, in which a class that is not
        named weighs 1, or "balanced" for weights inversely proportional to the class frequencies in
        the training data. Multiplies ``sample_weight``; scores use ``sample_weight`` alone.

    label_smoothing : float, default=0.0
        Share of each target that is spread evenly over the classes, in [0, 1). A little
        (0.1) makes the probabilities of a large network less extreme.

    calibration : {"temperature", "auto"} or None, default=None
        Whether to calibrate probabilities on held-out rows: the raw output is divided by
        ``temperature_``, which minimises the log loss of those rows [9]_. Needs
        ``early_stopping=True``, or ``X_val`` in ``fit``; "auto" calibrates where there are such
        rows. Predicted labels do not change. The networks of an ensemble hold out the same rows,
        and their mean is calibrated.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.

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
        Units of the output layer.

    out_activation_ : str
        "softmax", or "logistic" for two classes and for multilabel targets.

    device_ : str
        Where the network is.

    is_categorical_ : ndarray of shape (`n_features_in_`,) or None
        Mask of the features that hold categories, or None where there are none.

    temperature_ : float
        Divisor of the raw output, with ``calibration`` only. Above 1 if the network was
        overconfident.

    estimators_ : list of DeepMLPClassifier
        The networks of an ensemble, each the same as from a separate fit with its parameters and
        seed. Only with ``n_networks`` above 1. The ensemble itself has ``classes_``, ``n_iter_``
        (the most of any network), ``n_outputs_``, ``out_activation_``, ``temperature_``,
        ``n_features_in_`` and ``feature_names_in_``; every other attribute belongs to a network,
        such as ``estimators_[0].loss_curve_``.

    n_features_in_ : int
        Number of features seen during ``fit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings.

    See Also
    --------
    DeepMLPRegressor : The same for numbers.
    AutoencoderTransformer : Dense networks that reduce the dimension.

    Notes
    -----
    With ``solver="sgd"`` in double precision on the CPU the weights agree with
    scikit-learn's to rounding; with "adam" closely. In float32, on a GPU, or with
    dropout, they differ by rounding and by other random numbers.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep
       feedforward neural networks. AISTATS.
    .. [2] D. Kingma, J. Ba (2015). Adam: a method for stochastic optimization. ICLR.
    .. [3] N. Srivastava et al. (2014). Dropout: a simple way to prevent neural networks
       from overfitting. JMLR 15.
    .. [4] S. Ioffe, C. Szegedy (2015). Batch normalization. ICML.
    .. [5] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
       uncertainty estimation using deep ensembles. NeurIPS.
    .. [6] Y. Gorishniy, I. Rubachev, A. Babenko (2022). On embeddings for numerical features
       in tabular deep learning. NeurIPS.
    .. [7] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong
       pre-tuned MLPs and boosted trees on tabular data. NeurIPS.
    .. [8] C. Guo, F. Berkhahn (2016). Entity embeddings of categorical variables.
       arXiv:1604.06737.
    .. [9] C. Guo, G. Pleiss, Y. Sun, K. Weinberger (2017). On calibration of modern neural
       networks. ICML.
    .. [10] E. Berta, D. Holzmüller, M. I. Jordan, F. Bach (2025). Rethinking early stopping:
       refine, then calibrate. arXiv:2501.19195.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from sknn_deep import DeepMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    >>> classifier = DeepMLPClassifier(
    ...     hidden_layer_sizes=(128, 64), learning_rate="one_cycle", learning_rate_init=0.01,
    ...     max_iter=20, random_state=0,
    ... ).fit(X_train, y_train)
    >>> classifier.score(X_test, y_test) > 0.96
    True
    >>> classifier.predict_proba(X_test[:5]).shape
    (5, 10)

    An ensemble of five is better than its networks are on average:

    >>> ensemble = classifier.set_params(n_networks=5).fit(X_train, y_train)
    >>> scores = [network.score(X_test, y_test) for network in ensemble.estimators_]
    >>> ensemble.score(X_test, y_test) > sum(scores) / 5
    True
    """

    _trains_in_stacks = True
    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepMLP._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "scoring": [StrOptions({"calibrated_loss", "loss", *get_scorer_names()}), callable, None],
        "calibration": [StrOptions({"auto", "temperature"}), None],
        "validation_splitter": [
            HasMethods(["split", "get_n_splits"]),
            StrOptions({"stratified"}),
            None,
        ],
    }

    _fitted_state: ClassVar = CLASSIFIER_STATE

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
        """Fit the network to data and labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a multilabel indicator matrix.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data. Passing it switches early stopping on: the validation score
            decides when to stop, and the best weights are restored. ``GridSearchCV``
            slices it by fold if it has as many rows as X.

        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_labels), default=None
            Labels of the validation data.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        groups : array-like of shape (n_samples,), default=None
            The group of each row, for ``validation_splitter``: the patient, for example.

        Returns
        -------
        self : DeepMLPClassifier

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
        classes: "ArrayLike | None" = None,
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

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels, or a multilabel indicator matrix.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, not all zero.

        classes : array-like of shape (n_classes,), default=None
            All labels that any later call may contain. Required in the first call.

        X_val : {array-like, sparse matrix} of shape (n_val_samples, n_features), default=None
            Validation data, on which loss and score are recorded after the epoch.

        y_val : array-like of shape (n_val_samples,) or (n_val_samples, n_labels), default=None
            Labels of the validation data.

        sample_weight_val : array-like of shape (n_val_samples,), default=None
            Weights of the validation data.

        Returns
        -------
        self : DeepMLPClassifier
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit, which does not see "
                "all the labels. Compute the weights with "
                "sklearn.utils.class_weight.compute_class_weight and pass them as a dict."
            )
        validation = X_val, y_val, sample_weight_val
        self._fit(Call(X, y, sample_weight, *validation, classes=classes, incremental=True))
        return self

    @keeps_namespace
    def predict(self, X: "MatrixLike") -> np.ndarray:
        """Predict the class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
        """
        X = self._validate_input(X, check_later=True)
        if len(self._networks) == 1:
            are_many = self.out_activation_ == "softmax" and self.n_outputs_ >= MANY_CLASSES
            if not are_many or X.gives_tensors:
                return self._labels(next(self._map_networks(None, X)))
            # chunk by chunk: the outputs of all rows would take more memory than the rows
            return self.classes_[next(self._map_networks(_likeliest, X))]
        return self._labels(self._mean(self._map_networks(self._probabilities, X)), threshold=0.5)

    @keeps_namespace
    def predict_proba(self, X: "MatrixLike") -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes)
            Columns in the order of ``classes_``, in the network's floating-point type. Never 0:
            smaller values become the smallest normal number of the type. For an ensemble, the mean
            over its networks. For multilabel targets, the probability of each label, and below 1.
        """
        X = self._validate_input(X, check_later=True)
        if "temperature_" in vars(self):
            return self._probabilities(self._calibrated_logits(X))
        return self._outputs(X)

    @keeps_namespace
    def predict_log_proba(self, X: "MatrixLike") -> np.ndarray:
        """Predict the logarithm of the probability of each class.

        It is finite, since ``predict_proba`` is never 0.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes)
        """
        probabilities: Any = self.predict_proba(X)
        is_ours = type(probabilities) is np.ndarray
        logarithms: Any = np.log(probabilities) if is_ours else probabilities.log()
        return logarithms

    @keeps_namespace
    def decision_function(self, X: "MatrixLike") -> np.ndarray:
        """Return the logits: the network's output before the softmax or logistic function.

        They still rank rows whose probabilities are almost 0 or 1.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        logits : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the logits of ``classes_[1]``, shape (n_samples,). The softmax of a row,
            or for two classes and for multilabel targets the logistic function of each number, is
            ``predict_proba``. For an ensemble, they are the logarithm of its mean probabilities, or
            of their odds.
        """
        logits = self._calibrated_logits(self._validate_input(X, check_later=True))
        return logits[:, 0] if self.n_outputs_ == 1 else logits

    def score(
        self, X: "MatrixLike", y: "ArrayLike", sample_weight: "ArrayLike | None" = None
    ) -> float:
        """Return the accuracy of the predicted labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Test data.

        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            The share of rows predicted correctly; with several labels, the share of rows with all
            labels correct.
        """
        labels, y, sample_weight = map(as_numpy, (self.predict(X), y, sample_weight))
        return _accuracy(y, labels, sample_weight)

    def _outputs(self, X: Features) -> Any:
        """Return the quantities that an ensemble averages, for validated rows."""
        return self._mean(self._map_networks(self._probabilities, X))

    def _logits(self, X: Features) -> Any:
        """Return the raw output; for an ensemble, the one that gives its mean probabilities."""
        if len(self._networks) == 1:
            return next(self._map_networks(None, X))
        return by_torch(self._logits_of, self._outputs(X))

    def _logits_of(self, probabilities: Tensor) -> Tensor:
        """Return the raw output that gives these probabilities."""
        logarithms = probabilities.log()
        if self.out_activation_ == "softmax":
            return logarithms
        if self.n_outputs_ == 1:
            return logarithms[:, 1:] - logarithms[:, :1]
        largest = 1 - torch.finfo(probabilities.dtype).eps
        return logarithms - torch.log1p(-probabilities.clamp(max=largest))

    def _calibrated_logits(self, X: Features) -> Any:
        """Return the logits from which ``predict_proba`` is computed."""
        logits, temperature = self._logits(X), vars(self).get("temperature_")
        return logits if temperature is None else logits / temperature

    def _learn_from_held_out(
        self, X: Features, y: np.ndarray | None, sample_weight: np.ndarray | None
    ) -> None:
        if self.calibration is not None:
            targets = self._encode(np.asarray(y), np.dtype(np.float64))
            self.temperature_ = best_temperature(self._logits(X), targets, sample_weight)

    def _holds_out_together(self) -> bool:
        # on rows that one network was trained on, its probabilities are overconfident
        is_calibrated = self.early_stopping and self.calibration is not None
        return is_calibrated or super()._holds_out_together()

    def _check_combinations(self, call: Call) -> None:
        super()._check_combinations(call)
        holds_out = self.early_stopping and self.solver != "lbfgs" and not call.incremental
        if self.calibration == "temperature" and call.X_val is None and not holds_out:
            raise ValueError(
                f"calibration={self.calibration!r} needs rows that are held out from training: "
                + (
                    "pass X_val and y_val to partial_fit, or set calibration=None."
                    if call.incremental
                    else "set early_stopping=True, or pass X_val and y_val to fit, with a "
                    "stochastic solver."
                )
            )

    def _loss_of_outputs(
        self, output: np.ndarray, y: np.ndarray, weight: np.ndarray | None
    ) -> float:
        """Return the log loss of probabilities, calibrated if ``scoring`` asks for it."""
        if self.scoring == "calibrated_loss":
            if not np.isfinite(output).all():
                return np.nan
            logits = by_torch(self._logits_of, output)
            return calibrated_loss(logits, self._encode(y, np.dtype(np.float64)), weight)
        tiny = np.finfo(output.dtype).tiny
        if y.ndim == 2:
            right = np.where(y, output, 1 - output).clip(tiny)
            losses = -np.log(right).sum(axis=1)
        else:
            indices = np.searchsorted(self.classes_, y)
            losses = -np.log(output[np.arange(len(y)), indices].clip(tiny))
        return float(np.average(losses, weights=weight))

    def _probabilities(self, raw: Any) -> Any:
        """Return the probability of each class, never 0, given raw output (rows, n_outputs).

        Probabilities too small for their type become its smallest normal number, so that logarithms
        are finite.
        """
        if type(raw) is np.ndarray and raw.size <= _FEW_NUMBERS:
            return self._few_probabilities(raw)
        return by_torch(self._many_probabilities, raw)

    def _few_probabilities(self, raw: np.ndarray) -> np.ndarray:
        """Compute :meth:`_probabilities` with NumPy, whose calls take half as long as torch's."""
        type_info = np.finfo(raw.dtype)
        if self.out_activation_ == "softmax":
            probabilities = raw - np.maximum.reduce(raw, axis=1, keepdims=True)
            with np.errstate(under="ignore"):
                np.exp(probabilities, out=probabilities)
                probabilities /= np.add.reduce(probabilities, axis=1, keepdims=True)
        elif self.n_outputs_ == 1:
            probabilities = expit(np.concatenate((-raw, raw), axis=1))
        else:
            probabilities = np.minimum(expit(raw), 1 - type_info.eps)
        return np.maximum(probabilities, type_info.tiny, out=probabilities)

    def _many_probabilities(self, raw: Tensor) -> Tensor:
        """Compute :meth:`_probabilities` with torch."""
        if self.out_activation_ == "softmax":
            probabilities = _over_classes(torch.softmax, raw)
        elif self.n_outputs_ == 1:
            # the complement from the logit: 1 - sigmoid(raw) would be 0 where sigmoid rounds to 1
            probabilities = torch.cat((raw.neg(), raw), dim=1).sigmoid_()
        else:
            probabilities = torch.sigmoid(raw).clamp_max_(1 - torch.finfo(raw.dtype).eps)
        return probabilities.clamp_min_(torch.finfo(raw.dtype).tiny)

    def _labels(self, output: Any, threshold: float = 0.0) -> Any:
        """Return the most probable labels given the raw output, or probabilities."""
        is_multilabel = self._label_binarizer.y_type_ == "multilabel-indicator"
        if type(output) is Tensor:
            if is_multilabel:
                return (output > threshold).long()
            if self.classes_.dtype.kind in "biuf":
                indices = output.argmax(dim=1) if output.shape[1] > 1 else output[:, 0] > threshold
                classes = torch.from_numpy(self.classes_).to(output.device)
                return classes[indices.long().clamp_max_(len(classes) - 1)]
            output = output.cpu().numpy()
        if is_multilabel:
            return self._label_binarizer.inverse_transform(output, threshold=threshold)
        indices = output.argmax(axis=1) if output.shape[1] > 1 else output[:, 0] > threshold
        # a network that has seen a single class also has one output: always predict that class
        return self.classes_[np.minimum(indices, len(self.classes_) - 1)]

    def _validate_training_data(
        self, call: Call, dtypes: list[type], *, reset: bool
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        if call.incremental and check_partial_fit_first_call(self, call.classes):
            multilabel = type_of_target(call.y).startswith("multilabel")
            labels = call.y if multilabel else call.classes
            self._label_binarizer = LabelBinarizer().fit(labels)
        X, y = self._validate_pair(call.X, call.y, dtypes, reset)
        self._learn_classes(y, call.incremental)
        targets = self._encode(y, X.dtype)
        self.n_outputs_ = len(self.classes_) if targets.ndim == 1 else targets.shape[1]
        self.out_activation_ = "softmax" if targets.ndim == 1 else "logistic"
        return X, y, targets

    def _planned_output(self, n_classes: int | None, n_outputs: int | None) -> tuple[int, str]:
        if n_classes is None and n_outputs is not None:
            return n_outputs, "logistic"
        if n_classes is not None and n_outputs is None:
            return (n_classes, "softmax") if n_classes > 2 else (1, "logistic")
        raise ValueError(
            "DeepMLPClassifier needs n_classes, or n_outputs for a target of several labels: "
            f"pass one of them, got n_classes={n_classes} and n_outputs={n_outputs}."
        )

    def _validate_held_out_data(
        self, X: Any, y: Any, dtype: type
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        X, y = self._validate_pair(X, y, [dtype], reset=False)
        if (y.ndim == 2) != (self._label_binarizer.y_type_ == "multilabel-indicator"):
            raise ValueError(
                f"y_val is {type_of_target(y)} but y is {self._label_binarizer.y_type_}; "
                "pass labels of the same kind in both."
            )
        unseen = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unseen):
            raise ValueError(
                f"y_val has classes that are not in y: {unseen}; y has {self.classes_}."
            )
        return X, y, self._encode(y, X.dtype)

    def _validate_pair(
        self, X: Any, y: Any, dtypes: list[type], reset: bool
    ) -> tuple[Features, np.ndarray]:
        if not isinstance(X, Features):  # already validated by an ensemble
            refuse_missing_targets(y)
        X, y = self._validate_rows(X, y, dtypes=dtypes, reset=reset, multi_output=True)
        return X, column_as_1d(y)

    def _learn_classes(self, y: np.ndarray, incremental: bool) -> None:
        """Set ``classes_``, or check that y fits those of an earlier call."""
        kind = type_of_target(y) if y.dtype.kind in "fO" else ""
        if kind == "unknown":
            raise ValueError(
                f"Unknown label type: y holds objects such as {y.flat[0]!r}, a "
                f"{type(y.flat[0]).__name__}; give it a type, by y.astype(int) or y.astype(str)."
            )
        if kind.startswith("continuous"):
            raise ValueError(
                f"Unknown label type: {kind}. y must hold classes, got numbers such "
                f"as {y[y != np.trunc(y)].flat[0]}; use DeepMLPRegressor to predict numbers."
            )
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = _fitted_binarizer(y)
            self.classes_ = self._label_binarizer.classes_
            return
        was_multilabel = self._label_binarizer.y_type_.startswith("multilabel")
        if (y.ndim == 2) != was_multilabel:
            kinds = {True: "columns of labels (multilabel)", False: "one label a row"}
            raise ValueError(
                f"`y` has {kinds[not was_multilabel]}, but the network was fitted to "
                f"{kinds[was_multilabel]}. Call fit with warm_start=False to begin anew."
            )
        classes = unique_labels(y)
        if self.warm_start and not incremental:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _encode(self, y: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return class indices for a softmax output, 0 and 1 of shape (n, k) for others."""
        if y.ndim == 2:
            return self._label_binarizer.transform(y).astype(dtype)
        indices = np.searchsorted(self.classes_, y)
        return indices if len(self.classes_) > 2 else indices.astype(dtype)[:, np.newaxis]

    def _weigh_classes(  # type: ignore[override]  # a classifier always has y
        self, y: np.ndarray, sample_weight: np.ndarray | None, learn: bool
    ) -> np.ndarray | None:
        if learn:
            vars(self).pop("_class_weights", None)  # belong to the classes of an earlier fit
        if self.class_weight is None:
            return sample_weight
        if y.ndim == 2:
            weights = compute_sample_weight(self.class_weight, y)
        else:
            indices = np.searchsorted(self.classes_, y)
            if learn:
                self._class_weights = self._make_class_weights(indices, sample_weight)
            weights = self._class_weights[indices]
        return weights if sample_weight is None else sample_weight * weights

    def _make_class_weights(
        self, indices: np.ndarray, sample_weight: np.ndarray | None
    ) -> np.ndarray:
        """Return the weight of each class, given the classes of the training samples."""
        if self.class_weight == "balanced":
            # count weights, not rows: a row of weight 2 counts as two rows
            totals = np.bincount(indices, weights=sample_weight, minlength=len(self.classes_))
            present = totals > 0
            share = totals.sum() / present.sum()
            return np.divide(share, totals, out=np.zeros(len(totals)), where=present)
        weight_of = self.class_weight or {}
        unknown = [label for label in weight_of if label not in self.classes_]
        if unknown:
            raise ValueError(
                f"class_weight names {unknown}, which are not among the classes {self.classes_}."
            )
        weights = np.array([weight_of.get(label, 1.0) for label in self.classes_.tolist()])
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                f"class_weight={self.class_weight} must map classes to finite, non-negative "
                "numbers."
            )
        return weights

    def _labels_to_share(  # type: ignore[override]  # a classifier always has targets
        self, targets: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        labels = targets[:, 0].astype(int) if self.n_outputs_ == 1 else targets
        return labels, self.classes_

    def _make_loss(self) -> Loss:
        return classification_loss(self.out_activation_, self.label_smoothing)

    def _validation_scoring(self) -> Any:
        return None if self.scoring == "calibrated_loss" else self.scoring

    def _default_score(  # type: ignore[override]  # a classifier always has y
        self, raw: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None
    ) -> float:
        if not np.isfinite(raw).all():
            return np.nan
        if self.scoring == "calibrated_loss":
            weight = self._weigh_classes(y, sample_weight, learn=False)
            return -calibrated_loss(raw, self._encode(y, np.dtype(np.float64)), weight)
        if y.ndim == 1:  # accuracy_score would determine the type of the labels in every epoch
            return float(np.average(self._labels(raw) == y, weights=sample_weight))
        return float(accuracy_score(y, self._labels(raw), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _fitted_binarizer(y: np.ndarray) -> LabelBinarizer:
    """Return a binarizer fitted to the labels.

    scikit-learn's ``fit`` determines the type of the labels twice, which takes a tenth of a small
    fit. For a plain array of integers once is enough.
    """
    binarizer = LabelBinarizer()
    if y.ndim != 1 or y.dtype.kind not in "biu":
        return binarizer.fit(y)
    binarizer.y_type_ = type_of_target(y, input_name="y")
    binarizer.classes_, binarizer.sparse_input_ = np.unique(y), False
    return binarizer


def _likeliest(raw: Any) -> Any:
    """Return the index of the largest output of each row."""
    if type(raw) is np.ndarray:
        return raw.argmax(axis=1)
    if raw.device.type != "cpu":
        return raw.argmax(dim=1)
    return torch.from_numpy(raw.numpy().argmax(axis=1))  # takes less than half of torch's time


def _over_classes(function: Callable[..., Tensor], raw: Tensor) -> Tensor:
    """Return a softmax, or its logarithm, of rows of outputs."""
    if not is_narrow(*raw.shape):
        return function(raw, dim=1)
    # over a short last dimension it is slower, even counting both transpositions
    return function(raw.mT, dim=0).mT.contiguous()


def _accuracy(y: Any, labels: np.ndarray, sample_weight: Any) -> float:
    """Return scikit-learn's accuracy.

    ``accuracy_score`` first determines the type of the labels, which takes longer than the
    predictions of a small network; this is skipped if both arrays have the same plain type.
    """
    is_plain = (
        type(y) is np.ndarray and y.dtype.kind in "biuU" and y.dtype.kind == labels.dtype.kind
    )
    if sample_weight is None and is_plain and y.ndim == 1 and y.shape == labels.shape:
        return float(np.mean(labels == y))
    return float(accuracy_score(y, labels, sample_weight=sample_weight))
