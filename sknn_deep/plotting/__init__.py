"""Plots of networks and what they learn, following scikit-learn's conventions for displays.

A display stores the data it shows. Its class method ``from_estimator`` computes and draws them;
``plot`` draws them again, on other axes or with other options. matplotlib is imported when
something is drawn, plotly when an interactive page is written.

Displays rely on methods and attributes (``transform``, ``coefs_``, ``loss_curve_`` or
``cv_results_``), not on classes, so they also work with PCA and with scikit-learn's own networks
and searches.
"""

from sknn_deep.plotting._calibration import CalibrationDisplay
from sknn_deep.plotting._embedding import EmbeddingDisplay
from sknn_deep.plotting._halving import HalvingDisplay
from sknn_deep.plotting._importance import ImportanceDisplay
from sknn_deep.plotting._intervals import IntervalDisplay
from sknn_deep.plotting._loss_curve import LossCurveDisplay
from sknn_deep.plotting._reconstruction import ReconstructionDisplay
from sknn_deep.plotting._search_surface import SearchSurfaceDisplay
from sknn_deep.plotting._style import PALETTE
from sknn_deep.plotting._weights import WeightsDisplay

__all__ = [
    "PALETTE",
    "CalibrationDisplay",
    "EmbeddingDisplay",
    "HalvingDisplay",
    "ImportanceDisplay",
    "IntervalDisplay",
    "LossCurveDisplay",
    "ReconstructionDisplay",
    "SearchSurfaceDisplay",
    "WeightsDisplay",
]
