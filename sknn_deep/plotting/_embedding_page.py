"""The interactive map of an embedding: one HTML file that needs nothing else.

``embedding_page.html`` holds the page and its script, plotly draws the points with WebGL. The
data stand in the page as base64 of packed numbers; images are deflated, and the browser
inflates them once.
"""

import base64
import json
import zlib
from html import escape
from pathlib import Path
from string import Template

import numpy as np

_PAGE = Path(__file__).with_name("embedding_page.html")


def write_page(path, *, points, values, names, colors, images, title) -> Path:
    """Write the page.

    Parameters
    ----------
    path : str or path-like
    points : ndarray of shape (n_samples, 2)
    values : ndarray of shape (n_samples,) or None
        Index of each point's class, or with no names its number.
    names, colors : list of str, length n_classes
    images : ndarray of shape (n_samples, height, width) or None
    title : str

    Returns
    -------
    path : Path
    """
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        plotly=_plotly_script(),
        data=_json(
            {
                "x": _packed(points[:, 0], "<f4"),
                "y": _packed(points[:, 1], "<f4"),
                "values": None if values is None else _packed(values, "<f4"),
                "names": names,
                "colors": colors,
                "images": None if images is None else _deflated(images),
                "shape": None if images is None else images.shape[1:],
            }
        ),
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(
            "EmbeddingDisplay.to_html needs plotly: pip install 'sknn_deep[interactive]'."
        ) from error
    return get_plotlyjs()


def _json(data) -> str:
    """Return JSON that cannot end the script element it stands in, whatever the names are."""
    return json.dumps(data).replace("<", "\\u003c")


def _packed(values, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def _deflated(images) -> str:
    """Return images as 256 shades from the smallest to the largest pixel, deflated."""
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    shades = np.rint((images - low) * (255 / (high - low or 1))).astype(np.uint8)
    return base64.b64encode(zlib.compress(shades.tobytes(), level=6)).decode()
