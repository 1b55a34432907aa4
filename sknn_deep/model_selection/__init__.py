"""Searches and cross-validation that train all candidates and folds at once.

They replace the classes (named without "Fused") and the function of ``sklearn.model_selection``:
same parameters, same results, in less time.
"""

from sknn_deep.model_selection._cross_validate import cross_validate
from sknn_deep.model_selection._halving import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV

__all__ = [
    "FusedGridSearchCV",
    "FusedHalvingGridSearchCV",
    "FusedHalvingRandomSearchCV",
    "FusedRandomizedSearchCV",
    "cross_validate",
]
