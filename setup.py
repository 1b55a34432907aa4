"""What pyproject.toml cannot say: addresses that depend on where the repository is published.

A package's page shows the README without the files beside it, so its links and pictures have to be
absolute there. They are made so here, from the addresses in ``[tool.sknn_deep.addresses]`` of
pyproject.toml, which is the one place to set them.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROJECT_LINKS = {"repository": "Repository", "documentation": "Documentation"}


def project_urls(addresses: dict[str, str]) -> dict[str, str]:
    """Return the links of the package's page; none without addresses."""
    links = {PROJECT_LINKS[key]: addresses[key] for key in PROJECT_LINKS if addresses[key]}
    if addresses["files"]:
        links["Changelog"] = f"{addresses['files']}/CHANGELOG.md"
    return links


def absolute_readme(text: str, addresses: dict[str, str]) -> str:
    """Return the README with links and pictures that lead to the published files.

    A link to a heading of the README, or to another site, stays as it is; so does every link as
    long as no addresses are set.
    """

    def absolute(match: re.Match[str]) -> str:
        kind = "pictures" if match["picture"] else "files"
        if not addresses[kind]:
            return match[0]
        return f"{match['picture']}[{match['text']}]({addresses[kind]}/{match['path']})"

    return re.sub(
        r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!\w+:|#)[^)]+)\)", absolute, text
    )


if __name__ == "__main__":  # as setuptools runs it
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    addresses = settings["tool"]["sknn_deep"]["addresses"]
    setup(
        long_description=absolute_readme((ROOT / "README.md").read_text("utf-8"), addresses),
        long_description_content_type="text/markdown",
        project_urls=project_urls(addresses),
    )
