"""Rows of pixels become images of the shape that is asked for."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sknn_deep.plotting._images import as_images

ROWS = np.arange(2 * 16.0).reshape(2, 16)


@pytest.mark.parametrize("container", [np.asarray, np.ndarray.tolist, pd.DataFrame, sp.csr_array])
def test_rows_are_squares_unless_a_shape_is_given(container):
    np.testing.assert_array_equal(as_images(container(ROWS), None), ROWS.reshape(2, 4, 4))
    np.testing.assert_array_equal(as_images(container(ROWS), (2, 8)), ROWS.reshape(2, 2, 8))


def test_images_stay_as_they_are():
    images = ROWS.reshape(2, 2, 8)
    assert as_images(images, None) is images


@pytest.mark.parametrize(
    ("n_features", "image_shape", "message"),
    [
        (64, (28, 28), "image_shape=(28, 28) does not match 64 features; pass a height"),
        (64, (28, 28), "whose product is 64"),
        (64, (8,), "image_shape=(8,) does not match 64 features"),
        (60, None, "60 features make no square image; pass image_shape=(height, width)"),
    ],
)
def test_a_shape_that_does_not_match_is_refused(n_features, image_shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_images(np.zeros((2, n_features)), image_shape)
