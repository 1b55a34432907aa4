"""The benchmark of tables measures what it says, on rows that nobody has trained on."""

import sys

import numpy as np
import pandas as pd
import pytest

from benchmarks import tables


@pytest.fixture
def wine(tmp_path, monkeypatch):
    """Write a table of a few numbers, categories and gaps in the place of one of the files."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=100), "colour": rng.choice(["a", "b"], 100)})
    frame["quality"] = frame["size"] + (frame["colour"] == "a")
    frame.loc[::9, "size"] = np.nan
    (tmp_path / "tables").mkdir()
    frame.to_csv(tmp_path / "tables" / "wine_quality.csv.gz", index=False)
    monkeypatch.setenv("SKNN_DEEP_DATA", str(tmp_path))
    return frame


def test_parts_of_a_table_share_no_row(wine):
    table = tables.load("wine")
    rows = np.concatenate([table.train, table.validation, table.test])
    np.testing.assert_array_equal(np.sort(rows), np.arange(100))
    assert (len(table.train), len(table.validation), len(table.test)) == (64, 16, 20)


def test_folds_hold_each_row_once_and_no_test_row(wine):
    table = tables.load("wine")
    folds = tables.folds(table, 4)
    of_table, of_folds = (
        np.sort(np.concatenate(parts))
        for parts in ([table.train, table.validation], [fold.test for fold in folds])
    )
    np.testing.assert_array_equal(of_folds, of_table)
    for fold in folds:
        rows = np.concatenate([fold.train, fold.validation, fold.test])
        np.testing.assert_array_equal(np.sort(rows), of_table)
        assert (len(fold.train), len(fold.validation), len(fold.test)) == (48, 12, 20)


@pytest.mark.parametrize("parts", [["train", "val", "test"], ["train", "test"]])
def test_published_split_is_used(parts):
    part = pd.Series(parts).repeat([10, 5, 5][: len(parts)]).reset_index(drop=True)
    train, validation, test = tables._split(len(part), part)
    assert set(part[test]) == {"test"}
    assert set(part[validation]) == {"val" if "val" in parts else "train"}
    assert not set(train) & set(validation)


@pytest.mark.parametrize(("is_error", "ranks"), [(True, [1, 1, 1, 2]), (False, [3, 3, 2, 1])])
def test_ranks_are_among_the_rivals(is_error, ranks):
    figures = {"TabularMLP": 1.0, "64 candidates": 1.5, "LightGBM": 2.0, "XGBoost": 3.0}
    assert list(tables.ranks(figures, is_error=is_error).values()) == ranks


@pytest.mark.parametrize("part", ["validation", "test"])
def test_figures_are_of_the_rows_asked_for(part, wine, monkeypatch, capsys):
    names = ["HistGradientBoosting", "scikit-learn's MLP"]
    arguments = ["tables.py", "--tables", "wine", "--seeds", "1", "--only", ",".join(names)]
    monkeypatch.setattr(sys, "argv", [*arguments, *["--validation"] * (part == "validation")])
    tables.main()
    table, printed = tables.load("wine"), capsys.readouterr().out
    assert "TabularMLP" not in printed
    for name in names:
        figure = table.figure(tables.contenders(1)[name](table, 0), getattr(table, part))
        assert f"| {name} | {figure:.5g} | 0 |" in printed


def test_figures_of_folds_are_their_mean_and_deviation(wine, monkeypatch, capsys):
    name = "HistGradientBoosting"
    arguments = ["tables.py", "--tables", "wine", "--only", name, "--folds", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    tables.main()
    fit = tables.contenders(1)[name]
    folds = tables.folds(tables.load("wine"), 3)
    figures = [fold.figure(fit(fold, 0), fold.test) for fold in folds]
    expected = f"| {name} | {np.mean(figures):.5g} | {np.std(figures):.2g} |"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds is 1; give at least 2."),
        (["--tables", "wines"], "--tables has ['wines']; choose from ['california',"),
        (["--only", "MLP"], "--only has ['MLP']; choose from ["),
    ],
)
def test_unknown_name_is_told(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tables.py", *arguments])
    with pytest.raises(SystemExit):
        tables.main()
    assert message in capsys.readouterr().err
