"""Which columns of a table hold categories, and what becomes of their values."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from sknn_deep._estimators.table_columns import TableColumns, learn_columns

FRAME = pd.DataFrame(
    {
        "number": [1.5, 2.0, np.nan, 4.0],
        "text": ["b", "a", None, "b"],
        "kind": pd.Categorical(["x", "y", "x", None]),
        "flag": [True, False, True, True],
    }
)
CODES = [[1.5, 1, 0, 1], [2.0, 0, 1, 0], [np.nan, 2, 0, 1], [4.0, 1, 2, 1]]


def encoded(X, selection="from_dtype", of=None):
    columns = learn_columns(X if of is None else of, selection)
    return columns.encode(X, np.float64).tolist()


def assert_codes(found, expected):
    np.testing.assert_array_equal(np.array(found), np.array(expected))


CONTAINERS = {
    "pandas": FRAME,
    "pandas strings": FRAME.astype({"text": "string", "number": "Float64", "flag": "boolean"}),
    "arrow": FRAME.astype(
        {"number": "double[pyarrow]", "text": "string[pyarrow]", "flag": "bool[pyarrow]"}
    ),
    "polars": pl.DataFrame(
        {
            "number": [1.5, 2.0, None, 4.0],
            "text": ["b", "a", None, "b"],
            "kind": pl.Series(["x", "y", "x", None], dtype=pl.Categorical),
            "flag": [True, False, True, True],
        }
    ),
    "objects": FRAME.astype(object).to_numpy(),
    "objects with None": FRAME.astype(object).where(FRAME.notna(), None).to_numpy(),
}


@pytest.mark.parametrize("X", CONTAINERS.values(), ids=CONTAINERS)
def test_codes_are_the_same_whatever_holds_the_table(X):
    assert_codes(encoded(X), CODES)


@pytest.mark.parametrize("fitted", CONTAINERS)
@pytest.mark.parametrize("given", ["pandas", "arrow", "polars"])
def test_a_table_may_come_in_another_container_later(fitted, given):
    assert_codes(encoded(CONTAINERS[given], of=CONTAINERS[fitted]), CODES)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((3, 2)),
        np.array([[1, 2.5], [None, 3]], dtype=object),
        pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        pd.DataFrame({"a": [True, False]}),
        pl.DataFrame({"a": [1, 2], "b": [True, False]}),
        [[1, 2], [3, 4]],
    ],
)
def test_tables_of_numbers_have_no_categories(X):
    assert learn_columns(X, "from_dtype") is None


@pytest.mark.parametrize("selection", [None, []])
def test_nothing_is_chosen_where_nothing_is_asked_for(selection):
    assert learn_columns(FRAME, selection) is None


@pytest.mark.parametrize(
    "selection",
    [["text", "kind"], [1, 2], [-3, -2], np.array([1, 2]), [False, True, True, False], ["text", 2]],
)
def test_columns_are_chosen_by_name_number_or_mask(selection):
    assert list(learn_columns(FRAME, selection).categories) == [1, 2]


def test_numbers_may_be_categories():
    X = np.array([[3.0, 0.1], [7.0, 0.2], [3.0, 0.3]])
    assert learn_columns(X, [0]).categories == {0: [3.0, 7.0]}
    assert_codes(encoded(np.array([[7.0, 1.0], [5.0, 1.0]]), [0], of=X), [[1, 1], [-1, 1]])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (["colour"], "'colour', which is not a column of X; it has .'number', 'text'"),
        ([4], "has 4, but X has 4 columns"),
        ([True, False], "a mask of 2 columns, but X has 4"),
        ([1.5], "1.5, which is not a column"),
    ],
)
def test_a_selection_of_other_columns_is_refused(selection, message):
    with pytest.raises(ValueError, match=message):
        learn_columns(FRAME, selection)


def test_values_that_training_did_not_have_are_unknown():
    later = pd.DataFrame(
        {"number": [0.0], "text": ["zebra"], "kind": ["z"], "flag": [False]}, index=["a"]
    )
    assert_codes(encoded(later, of=FRAME), [[0.0, -1, -1, 0]])


def test_a_missing_category_that_training_did_not_have_is_unknown():
    training = pd.DataFrame({"a": ["x", "y"]})
    assert_codes(encoded(pd.DataFrame({"a": [None, "y"]}), of=training), [[-1], [1]])


def test_the_order_of_categories_does_not_depend_on_the_rows():
    assert learn_columns(FRAME, "from_dtype") == learn_columns(FRAME[::-1], "from_dtype")


def test_of_many_categories_the_rarest_are_left_out():
    X = pd.DataFrame({"a": [f"v{i}" for i in range(10) for _ in range(5)] + ["rare"] * 4})
    assert learn_columns(X, "from_dtype").categories == {0: [f"v{i}" for i in range(10)]}
    few = pd.DataFrame({"a": ["x"] * 9 + ["y"]})
    assert learn_columns(few, "from_dtype").categories == {0: ["x", "y"]}


def test_categories_that_no_row_has_are_none():
    kind = pd.Categorical(["a", "c"], categories=["a", "b", "c"])
    assert learn_columns(pd.DataFrame({"kind": kind}), "from_dtype").categories == {0: ["a", "c"]}


def test_intervals_are_known_by_their_text():
    X = pd.DataFrame({"age": pd.cut([1, 5, 9], [0, 3, 10])})
    assert learn_columns(X, "from_dtype").categories == {0: ["(0, 3]", "(3, 10]"]}
    assert_codes(encoded(X), [[0], [1], [1]])


def test_numbers_beside_texts_are_refused_with_the_remedy():
    X = np.array([[1.5, "a"], ["seven", "b"]], dtype=object)
    with pytest.raises(ValueError, match=r"'seven'. Column 0 of X holds numbers.*NaN"):
        learn_columns(X, "from_dtype")
    assert learn_columns(X, [0, 1]).categories[0] == [1.5, "seven"]


def test_values_that_cannot_be_compared_are_refused():
    X = pd.DataFrame({"tags": pd.Series([["a"], ["b"]], dtype=object)})
    with pytest.raises(TypeError, match="Column 'tags' holds .*'a'.*, of list, which is neither"):
        learn_columns(X, ["tags"])


def test_texts_that_are_numbers_are_told():
    X = pd.DataFrame({"TotalCharges": [str(i + 0.5) for i in range(30)] + [" "]})
    with pytest.warns(UserWarning, match="'TotalCharges' holds numbers as texts.*beside ' '"):
        learn_columns(X, "from_dtype")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn_columns(X, ["TotalCharges"])  # who asks knows
        learn_columns(pd.DataFrame({"stars": list("12345") * 9}), "from_dtype")


def test_a_column_of_numbers_must_stay_one():
    columns = learn_columns(FRAME, "from_dtype")
    later = FRAME.assign(number=["one", "two", "three", "four"])
    with pytest.raises(ValueError, match="Column 'number' should hold numbers, as in training"):
        columns.encode(later, np.float32)


def test_names_may_occur_twice():
    X = pd.DataFrame([["a", 1.0], ["b", 2.0]], columns=["same", "same"])
    assert_codes(encoded(X), [[0, 1.0], [1, 2.0]])


def test_codes_come_in_the_type_that_is_asked_for():
    columns = TableColumns({0: ["a"]}, [])
    assert columns.encode(pd.DataFrame({"x": ["a"], "y": [1]}), np.float32).dtype == np.float32
