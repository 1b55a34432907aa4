"""Types of other packages that a file may use, because their state can do no harm.

Each is listed with the skops loaders that may use it, so that a torch class or a function may be
referenced but not called while a file is read. Types that access memory without bounds checks, such
as scikit-learn's trees and SciPy's splines, are excluded, and so are those that execute parts of
their state, such as SciPy's distributions.
"""

from collections.abc import Collection

import torch
from sklearn import metrics, model_selection
from sklearn.metrics import get_scorer, get_scorer_names

OBJECT, TYPE, FUNCTION = ("ObjectNode",), ("TypeNode",), ("FunctionNode",)


def name_of(type_: type | str) -> str:
    """Return skops' name of a type or function."""
    return type_ if isinstance(type_, str) else f"{type_.__module__}.{type_.__name__}"


_OBJECTS = (
    *(
        getattr(model_selection, name)
        for name in model_selection.__all__
        if name.endswith(("Fold", "Split", "Out"))
    ),
    "sklearn.model_selection._split._CVIterableWrapper",  # splits in a list
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.metrics._scorer._CurveScorer",
    "sklearn.metrics._scorer._MultimetricScorer",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.metrics._scorer._Scorer",
    "sklearn.utils._metadata_requests.MetadataRequest",  # of scorers
    "sklearn.utils._metadata_requests.MethodMetadataRequest",
)
_FUNCTIONS = {
    *(get_scorer(name)._score_func for name in get_scorer_names()),
    *(
        getattr(metrics, name)
        for name in metrics.__all__
        if name.endswith(("_score", "_loss", "_error"))
    ),
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._mutual_info.mutual_info_regression",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_oneway",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.feature_selection._univariate_selection.r_regression",
}
_OPTIMIZERS = [
    cls
    for cls in vars(torch.optim).values()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
]

HARMLESS: dict[str, Collection[str]] = {
    "numpy.dtype": ("DTypeNode",),
    "sklearn.utils._bunch.Bunch": ("DictNode",),
    "torch.device": ("ConstructorFromReduceNode",),
    **dict.fromkeys(sorted(map(name_of, _OBJECTS)), OBJECT),
    **dict.fromkeys(sorted(map(name_of, _FUNCTIONS)), FUNCTION),
    **dict.fromkeys(sorted(map(name_of, _OPTIMIZERS)), TYPE),
}
