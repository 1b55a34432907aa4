"""The interactive map of an embedding: one self-contained HTML file.

``embedding_page.html`` holds the page and its script; plotly draws the points with WebGL, and
the legend. The data are stored in the page as packed numbers in base64; images are compressed with
deflate, since most pixels of MNIST are black, and the browser decompresses them once.

In a manual comparison, a bokeh page was smaller than plotly's, but panning many points without a
graphics card was slower. A content security policy in the page forbids all connections, and class
names are inserted as text, never as markup.
"""

from __future__ import annotations

import base64
import json
import zlib
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from sknn_deep.plotting._labels import GREY, UNLABELLED, Labels

_HINT = " Click a class in the legend to hide it, double-click to see it alone."
_PAGE = Path(__file__).with_name("embedding_page.html")


class InlinePage:
    """A page that a notebook shows below the cell.

    Parameters
    ----------
    html : str
        The complete page.
    """

    def __init__(self, html: str):
        self.html = html

    def _repr_html_(self) -> str:
        # in an iframe, so that styles and scripts are isolated from those of the notebook
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" '
            'style="width: 100%; height: 640px; border: 0"></iframe>'
        )


def make_page(
    *,
    points: np.ndarray,
    labels: Labels | None,
    images: np.ndarray | None,
    title: str,
) -> str:
    """Return the page.

    Parameters
    ----------
    points : ndarray of shape (n_samples, 2)
    labels : Labels or None
    images : ndarray of shape (n_samples, height, width) or None
    title : str

    Returns
    -------
    html : str
    """
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        hint="" if labels is None or labels.classes is None else _HINT,
        plotly=_plotly_script(),
        data=_json(
            {
                "x": _packed(points[:, 0]),
                "y": _packed(points[:, 1]),
                "values": None if labels is None else _packed(labels.values),
                "names": [] if labels is None else labels.names,
                "colors": [] if labels is None else labels.colors,
                "unlabelled": {"name": UNLABELLED, "color": GREY},
                "images": None if images is None else _deflated(images),
                "shape": None if images is None else images.shape[1:],
            }
        ),
    )


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            "EmbeddingDisplay.to_html needs plotly: pip install 'sknn_deep[interactive]'."
        ) from error
    return str(get_plotlyjs())


def _json(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the enclosing script element, whatever the names are."""
    return json.dumps(data).replace("<", "\\u003c")


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def _deflated(images: np.ndarray) -> str:
    """Return images in 256 shades from the smallest to the largest pixel, compressed."""
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    shades = np.rint((images - low) * (255 / (high - low or 1))).astype(np.uint8)
    return base64.b64encode(zlib.compress(shades.tobytes(), level=6)).decode()
