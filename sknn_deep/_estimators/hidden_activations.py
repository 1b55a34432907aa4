"""The activations of a hidden layer as a step of a pipeline."""

from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import Bunch, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, validate_data

from sknn_deep._estimators.types import MatrixLike
from sknn_deep._sklearn import HasMethods, fit_context, routing_enabled


class HiddenActivations(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, MetaEstimatorMixin, BaseEstimator
):
    """Features that a classifier or a regressor has learned: the activations of a hidden layer.

    A network is fitted to the target, and ``transform`` returns the activations of one of its
    hidden layers: as input for another estimator, for an embedding plot or for nearest-neighbour
    search.

    Parameters
    ----------
    estimator : estimator
        A network with ``hidden_activations``, such as a :class:`DeepMLPClassifier` or a
        :class:`TabularMLPRegressor`; it is cloned and fitted. To use a fitted one as it is, wrap it
        in ``sklearn.frozen.FrozenEstimator``.

    layer : int, default=-1
        Number of the hidden layer, from 0; negative numbers count from the last.

    Attributes
    ----------
    estimator_ : estimator
        The fitted network.

    n_features_in_ : int
        Number of features seen during ``fit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings.

    See Also
    --------
    AutoencoderTransformer : Features learned without a target.

    Notes
    -----
    For an ensemble, the activations of its networks stand side by side. A negative ``layer`` then
    counts from the last hidden layer of each network, which may have more layers than others.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sknn_deep import DeepMLPClassifier, HiddenActivations
    >>> X, y = load_digits(return_X_y=True)
    >>> network = DeepMLPClassifier(
    ...     (64, 16), learning_rate="one_cycle", learning_rate_init=0.01, max_iter=20,
    ...     random_state=0,
    ... )
    >>> pipeline = make_pipeline(HiddenActivations(network), KNeighborsClassifier())
    >>> pipeline.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.85
    True
    >>> pipeline[0].transform(X[:5] / 16).shape
    (5, 16)
    """

    _parameter_constraints: ClassVar[dict] = {
        "estimator": [HasMethods(["fit", "hidden_activations"])],
        "layer": [Integral],
    }

    estimator_: Any
    n_features_in_: int

    def __init__(self, estimator: Any, layer: int = -1):
        self.estimator = estimator
        self.layer = layer

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: "MatrixLike", y: "ArrayLike | None" = None, **fit_params: Any) -> Self:
        """Fit a clone of the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            The target that the network learns to predict.

        **fit_params : dict
            For the network's ``fit``, such as ``sample_weight``; with metadata routing enabled,
            those that it requests.

        Returns
        -------
        self : HiddenActivations
        """
        routed = Bunch(estimator=Bunch(fit=fit_params))
        if routing_enabled():
            routed = process_routing(self, "fit", **fit_params)
        estimator = clone(self.estimator).fit(X, y, **routed.estimator.fit)
        estimator._n_hidden_units(self.layer)  # raises if there is no such layer
        validate_data(self, X, skip_check_array=True)
        self.estimator_ = estimator
        return self

    def transform(self, X: "MatrixLike") -> np.ndarray:
        """Return the activations of the hidden layer.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        activations : ndarray of shape (n_samples, n_units)
            In the network's floating-point type.
        """
        check_is_fitted(self)
        # the network refuses anything but a matrix with the message that scikit-learn's checks
        # expect
        activations: np.ndarray = self.estimator_.hidden_activations(X, layer=self.layer)
        validate_data(self, X, reset=False, skip_check_array=True)
        return activations

    @property
    def _n_features_out(self) -> int:
        n_units: int = self.estimator_._n_hidden_units(self.layer)
        return n_units

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the routing of ``fit`` parameters to the network.

        Returns
        -------
        routing : MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Any:
        tags, of_network = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags, tags.target_tags = of_network.input_tags, of_network.target_tags
        return tags
