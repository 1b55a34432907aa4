"""What a package says of itself: links that work on its page, versions that are tested."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADDRESSES = {
    "repository": "https://example.org/r",
    "documentation": "https://example.org/d",
    "files": "https://example.org/r/files",
    "pictures": "https://example.org/r/pictures",
}


@pytest.fixture(scope="module")
def setup():
    return runpy.run_path(str(ROOT / "setup.py"))


def test_links_and_pictures_of_the_readme_become_absolute(setup):
    before = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", README)
    after = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", setup["absolute_readme"](README, ADDRESSES))
    assert len(before) == len(after) > 10
    for (is_picture, old), (_, new) in zip(before, after, strict=True):
        if old.startswith("https:"):
            assert new == old
        else:
            kind = "pictures" if is_picture else "files"
            assert new == f"{ADDRESSES[kind]}/{old}"


def test_without_addresses_nothing_is_invented(setup):
    empty = dict.fromkeys(ADDRESSES, "")
    assert setup["absolute_readme"](README, empty) == README
    assert setup["project_urls"](empty) == {}


def test_the_package_names_its_addresses(setup):
    assert setup["project_urls"](ADDRESSES) == {
        "Repository": "https://example.org/r",
        "Documentation": "https://example.org/d",
        "Changelog": "https://example.org/r/files/CHANGELOG.md",
    }
    assert PROJECT["tool"]["sknn_deep"]["addresses"].keys() == ADDRESSES.keys()


def test_supported_versions_are_those_that_are_tried():
    tried = runpy.run_path(str(ROOT / "release" / "environments.py"))
    classifiers = PROJECT["project"]["classifiers"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.rpartition(" ")[2] for c in classifiers if c.startswith(prefix)]
    assert named == tried["PYTHONS"]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    oldest, newest = tried["TORCHES"]["oldest"], tried["TORCHES"]["newest"]
    assert f"torch>={oldest.removesuffix('.0')}" in PROJECT["project"]["dependencies"]
    assert f"torch=={newest}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()


def test_every_extra_of_the_install_page_exists():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = {
        extra for names in re.findall(r"\[([a-z,]+)\](?!\()", page) for extra in names.split(",")
    }
    assert {"plot", "interactive", "progress"} <= named
    assert named <= set(PROJECT["project"]["optional-dependencies"])
