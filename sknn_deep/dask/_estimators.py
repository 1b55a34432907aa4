"""The estimators for Dask collections.

Each inherits parameters, attributes and methods from the estimator that it is named after. The
differences are that Dask workers train it, and that predictions for collections are lazy.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, TypeVar

import numpy as np
from distributed import Client, get_client
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_is_fitted

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.fitted_state import fitted_state, set_fitted_state
from sknn_deep._estimators.inherited_docs import with_own_defaults
from sknn_deep._estimators.processes import check_travels
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep._sklearn import available_if
from sknn_deep.dask._collections import computed, is_collection, mapped
from sknn_deep.dask._fits import fit_on_workers

C = TypeVar("C", bound=type)


def _fit_transform(self: Any, X: Any, y: Any = None, **fit_params: Any) -> Any:
    """Fit, and return the code of the rows.

    Parameters
    ----------
    X : collection of shape (n_samples, n_features)

    y : None, default=None
        Ignored, present for the API's consistency.

    **fit_params : dict
        Further arguments of ``fit``.

    Returns
    -------
    code : collection of shape (n_samples, n_components)
    """
    return self.fit(X, y, **fit_params).transform(X)


# Sections of all docstrings below.
_ON_DASK = """
Parameters
----------
client : Client or None, default=None
    Client of the cluster to train on. None means Dask's default client, the one created last.
    ``clone`` keeps it, but pickles do not.

Attributes
----------
client_ : Client
    The client in use.

Notes
-----
``fit`` and ``partial_fit`` take X as a Dask array or DataFrame, and y, weights and groups as Dask
arrays or series with the same partitions. Each worker trains on the partitions of X that it holds,
which stay where they are. The result is that of one process on all rows, up to rounding errors.
Given Dask collections, methods that predict return lazy collections. Given arrays in memory, they
behave like those of the estimator without Dask.
"""
# Methods that take rows.
_OF_CLASSIFIERS = (
    "predict", "predict_proba", "predict_log_proba", "decision_function", "hidden_activations",
)  # fmt: skip
_OF_REGRESSORS = "predict", "predict_quantiles", "predict_interval", "hidden_activations"
_OF_AUTOENCODERS = (
    "transform", "inverse_transform", "reconstruction_error", "score_samples", "predict",
    "decision_function",
)  # fmt: skip


def _on_dask(base: Any, methods: Iterable[str]) -> Callable[[C], C]:
    """Return a class decorator for an estimator that trains on collections.

    Parameters
    ----------
    base : type
        The base estimator, whose docstring documents the parameters.
    methods : iterable of str
        Methods that also take collections.
    """

    def decorate(cls: C) -> C:
        own: Any = cls
        own._local_class = base
        own._parameter_constraints = {**base._parameter_constraints, "client": [Client, None]}
        for name in methods:
            inherited = inspect.getattr_static(base, name)
            check = getattr(inherited, "check", None)
            if check is None:
                setattr(cls, name, _lazily(inherited))
            else:  # a method that is available only with some parameters
                setattr(cls, name, available_if(check)(_lazily(inherited.fn)))
        return with_own_defaults(base, _ON_DASK)(cls)

    return decorate


def _lazily(method: Callable) -> Callable:
    """Return a method of X whose result is lazy if X is a collection."""

    @wraps(method)
    def wrapper(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_collection(X):
            return method(self, X, *args, **kwargs)
        given = inspect.signature(method).bind(self, X, *args, **kwargs).arguments
        options = dict(list(given.items())[2:])
        return mapped(self.to_local(), method.__name__, X, options)

    return wrapper


class OnWorkers(BaseDeepNetwork):
    """Behaviour shared by the estimators for Dask collections."""

    client: Client | None
    # the same estimator without Dask
    _local_class: ClassVar[type]

    @property
    def client_(self) -> Client:
        """The client in use: the parameter, or Dask's default one."""
        client = self.client
        if client is None:
            try:
                client = get_client()
            except ValueError as error:
                raise ValueError(
                    "There is no client of Dask: make one first, by distributed.Client() for "
                    "workers on this machine or Client('tcp://scheduler:8786') for a cluster, or "
                    "pass client=..."
                ) from error
        if client.status != "running":
            raise ValueError(
                f"client={client!r} is not connected, its status is {client.status!r}; pass one "
                "that is."
            )
        if client.asynchronous:
            raise ValueError(f"client={client!r} is asynchronous; pass one that waits.")
        return client

    def to_local(self) -> Any:
        """Return the estimator without Dask, with the same parameters and fitted state.

        It predicts for arrays and frames in memory, and its files can be loaded where Dask is not
        installed.

        Returns
        -------
        estimator : estimator
        """
        params = self.get_params(deep=False)
        del params["client"]
        local = self._local_class(**params)
        set_fitted_state(local, fitted_state(self))
        output = vars(self).get("_sklearn_output_config")
        if output is not None:
            local._sklearn_output_config = output
        return local

    def _fit(self, call: Call) -> None:
        self._check_alone()
        local, client = self.to_local(), self.client_
        random_state = local.random_state
        if not isinstance(random_state, int | np.integer):
            # the generator of this process, as in a fit without Dask
            random_state = local.random_state = random_state or np.random.mtrand._rand
        check_travels(local.get_params(deep=False))
        fitted = fit_on_workers(local, call, client)
        if isinstance(random_state, np.random.RandomState):
            random_state.set_state(fitted.random_state.get_state())
        set_fitted_state(self, fitted_state(fitted))

    def _check_alone(self) -> None:
        """Refuse parameters that ask for further processes or callbacks."""
        if self.n_processes != 1:
            raise ValueError(
                f"n_processes={self.n_processes!r} starts processes of its own, but the workers "
                "of the cluster are the processes; set n_processes=1."
            )
        if vars(self).get("n_jobs") not in (None, 1):
            raise ValueError(
                f"n_jobs={vars(self)['n_jobs']!r} starts joblib's workers, but those of the "
                "cluster train; set n_jobs=None."
            )
        if vars(self).get("n_candidates", 1) != 1:
            raise ValueError(
                f"n_candidates={vars(self)['n_candidates']} trains networks one after the other "
                "until the time is up, and cannot be divided between workers; set n_candidates=1."
            )
        is_autoencoder = isinstance(self, AutoencoderTransformer)
        if self.solver == "lbfgs" and (self.normalization == "batch" or is_autoencoder):
            raise ValueError(
                "solver='lbfgs' would need all rows at once to "
                + ("describe the code" if is_autoencoder else "learn normalization='batch'")
                + ", and no worker has them; choose a stochastic solver, such as 'adam'."
            )
        if vars(self).get("_skl_callbacks"):
            raise ValueError(
                "set_callbacks was called, but the training runs on other machines. Use callbacks "
                "of skorch's, which are copied there, or set_callbacks() to have none."
            )

    def __sklearn_clone__(self) -> Any:
        # a connection cannot be copied
        params = {
            name: value if name == "client" else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        twin = type(self)(**params)
        for name in ("_metadata_request", "_sklearn_output_config"):
            if name in vars(self):
                setattr(twin, name, vars(self)[name])
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "client": None}


class _Classifies(OnWorkers):
    """A classifier, scored by the accuracy of its labels."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of the predicted labels.

        Parameters
        ----------
        X : collection or array-like of shape (n_samples, n_features)

        y : collection or array-like of shape (n_samples,) or (n_samples, n_labels)

        sample_weight : collection or array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            The share of rows predicted correctly; with several labels, the share of rows with all
            labels correct.
        """
        return _score(self, accuracy_score, X, y, sample_weight)


class _Regresses(OnWorkers):
    """A regressor, scored by the coefficient of determination."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination.

        Parameters
        ----------
        X : collection or array-like of shape (n_samples, n_features)

        y : collection or array-like of shape (n_samples,) or (n_samples, n_outputs)

        sample_weight : collection or array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
        """
        return _score(self, r2_score, X, y, sample_weight)


def _score(estimator: Any, metric: Callable, X: Any, y: Any, sample_weight: Any) -> float:
    predicted, y, sample_weight = computed(estimator.predict(X), y, sample_weight)
    return float(metric(y, predicted, sample_weight=sample_weight))


@_on_dask(DeepMLPClassifier, _OF_CLASSIFIERS)
@dataclass(eq=False, repr=False, kw_only=True)
class DaskDeepMLPClassifier(_Classifies, DeepMLPClassifier):
    """A :class:`~sknn_deep.DeepMLPClassifier` that trains on the workers of a Dask cluster.

    See Also
    --------
    sknn_deep.DeepMLPClassifier : For data in memory; ``to_local`` returns it.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep.dask import DaskDeepMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X, y = da.from_array(X / 16, chunks=(600, 64)), da.from_array(y, chunks=600)
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     classifier = DaskDeepMLPClassifier(
    ...         learning_rate="one_cycle", max_iter=20, random_state=0
    ...     ).fit(X, y)
    ...     print(classifier.predict_proba(X))
    ...     print(classifier.score(X, y) > 0.9)
    dask.array<predict_proba, shape=(1797, 10), dtype=float64, chunksize=(600, 10), ...>
    True
    >>> classifier.to_local()
    DeepMLPClassifier(learning_rate='one_cycle', max_iter=20, random_state=0)
    """

    client: Client | None = None


@_on_dask(DeepMLPRegressor, _OF_REGRESSORS)
@dataclass(eq=False, repr=False, kw_only=True)
class DaskDeepMLPRegressor(_Regresses, DeepMLPRegressor):
    """A :class:`~sknn_deep.DeepMLPRegressor` that trains on the workers of a Dask cluster.

    See Also
    --------
    sknn_deep.DeepMLPRegressor : For data in memory; ``to_local`` returns it.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_diabetes
    >>> from sknn_deep.dask import DaskDeepMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = da.from_array(X * 20, chunks=(200, 10)), da.from_array(y, chunks=200)
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     model = DaskDeepMLPRegressor(
    ...         learning_rate="one_cycle", target_scaling="standard", random_state=0
    ...     ).fit(X, y)
    ...     print(model.predict(X).shape, model.score(X, y) > 0.3)
    (442,) True
    """

    client: Client | None = None


@_on_dask(AutoencoderTransformer, _OF_AUTOENCODERS)
@dataclass(eq=False, repr=False, kw_only=True)
class DaskAutoencoderTransformer(OnWorkers, AutoencoderTransformer):
    """An :class:`~sknn_deep.AutoencoderTransformer` that trains on the workers of a Dask cluster.

    See Also
    --------
    sknn_deep.AutoencoderTransformer : For data in memory; ``to_local`` returns it.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_digits
    >>> from sknn_deep.dask import DaskAutoencoderTransformer
    >>> X, y = load_digits(return_X_y=True)
    >>> X, y = da.from_array(X / 16, chunks=(600, 64)), da.from_array(y, chunks=600)
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     encoder = DaskAutoencoderTransformer(
    ...         2, learning_rate="one_cycle", max_iter=2, random_state=0
    ...     )
    ...     code = encoder.fit_transform(X)
    ...     print(code.shape, code.chunks[0])
    (1797, 2) (600, 600, 597)
    """

    client: Client | None = None

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the units of the code, as the estimator without Dask names them.

        Parameters
        ----------
        input_features : None, default=None
            Ignored, present for the API's consistency.

        Returns
        -------
        names : ndarray of str
        """
        check_is_fitted(self)
        return self.to_local().get_feature_names_out(input_features)

    def score(self, X: Any, y: object = None, sample_weight: Any = None) -> float:
        """Return the share of the variance that the code explains, for rows in memory.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        y : None, default=None
            Ignored, present for the API's consistency.

        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            As in :class:`~sknn_deep.AutoencoderTransformer`.
        """
        if is_collection(X):
            raise TypeError(
                "score needs rows in memory: pass some, such as X.partitions[0].compute(), or take "
                "the mean of reconstruction_error(X), which is computed by partition."
            )
        return super().score(X, y, sample_weight)


# set here: scikit-learn would wrap a method of the class body, and compute its result to name
# columns
DaskAutoencoderTransformer.fit_transform = _fit_transform  # type: ignore[method-assign]


@_on_dask(TabularMLPClassifier, _OF_CLASSIFIERS)
@dataclass(eq=False, repr=False, kw_only=True)
class DaskTabularMLPClassifier(_Classifies, TabularMLPClassifier):
    """A :class:`~sknn_deep.TabularMLPClassifier` that trains on the workers of a Dask cluster.

    See Also
    --------
    sknn_deep.TabularMLPClassifier : For data in memory; ``to_local`` returns it.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> from distributed import Client
    >>> from sknn_deep.dask import DaskTabularMLPClassifier
    >>> rows = {"size": [1.0, 2.0, None, 8.0], "kind": list("aabb"), "label": list("ssll")}
    >>> table = dd.from_pandas(pd.concat([pd.DataFrame(rows)] * 50), npartitions=2, sort=False)
    >>> X, y = table[["size", "kind"]], table["label"]
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     model = DaskTabularMLPClassifier(n_networks=1, random_state=0).fit(X, y)
    ...     print(model.predict(X).compute()[:4])
    ['s' 's' 'l' 'l']
    """

    client: Client | None = None


@_on_dask(TabularMLPRegressor, _OF_REGRESSORS)
@dataclass(eq=False, repr=False, kw_only=True)
class DaskTabularMLPRegressor(_Regresses, TabularMLPRegressor):
    """A :class:`~sknn_deep.TabularMLPRegressor` that trains on the workers of a Dask cluster.

    See Also
    --------
    sknn_deep.TabularMLPRegressor : For data in memory; ``to_local`` returns it.

    Examples
    --------
    >>> import dask.array as da
    >>> from distributed import Client
    >>> from sklearn.datasets import load_diabetes
    >>> from sknn_deep.dask import DaskTabularMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = da.from_array(X * 20, chunks=(200, 10)), da.from_array(y, chunks=200)
    >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
    ...     model = DaskTabularMLPRegressor(
    ...         learning_rate="one_cycle", max_iter=10, n_networks=1, random_state=0
    ...     )
    ...     print(model.fit(X, y).score(X, y) > 0.3)
    True
    """

    client: Client | None = None
