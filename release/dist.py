"""Build the source distribution and, from it, the wheel; try the wheel in a fresh environment.

    make dist

It is setuptools' backend that builds, as pip would have it do. The wheel is made from the unpacked
source distribution, so that nothing it needs can be missing there. The fresh environment gets the
wheel and what it depends on, by the versions of constraints.txt, and runs ``release/smoke.py`` from
another folder, so that nothing of this one is imported.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> tuple[Path, Path]:
    """Build both distributions into a folder, and return their paths."""
    folder.mkdir(exist_ok=True)
    os.chdir(ROOT)
    sdist = folder / build_meta.build_sdist(str(folder))
    with tempfile.TemporaryDirectory() as unpacked:
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        os.chdir(next(Path(unpacked).iterdir()))
        wheel = folder / build_meta.build_wheel(str(folder))
        os.chdir(ROOT)
    return sdist, wheel


def try_out(wheel: Path, python: str = sys.executable) -> None:
    """Install a wheel into a fresh environment and use it there."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "environment")
        run = environment / "bin" / "python"
        commands = [
            [python, "-m", "venv", "--without-pip", environment],
            # pip of the Python that runs `make`, so that no `ensurepip` is needed
            [base_python(), "-m", "pip", "--python", run, "install", "--quiet"]
            + ["-c", ROOT / "constraints.txt", f"sknn_deep[plot] @ {wheel.as_uri()}"],
            [run, "-W", "error", ROOT / "release" / "smoke.py"],
        ]
        for command in commands:
            subprocess.run([str(word) for word in command], cwd=folder, check=True)


def base_python() -> str:
    """Return the Python that has pip: the one that this environment was made with."""
    return os.environ.get("PYTHON") or str(Path(sys.base_prefix, "bin", "python3"))


def main() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    sdist, wheel = build(ROOT / "dist")
    try_out(wheel)
    print(f"built and tried: {sdist.relative_to(ROOT)}, {wheel.relative_to(ROOT)}")
    empty = [k for k, value in settings["tool"]["sknn_deep"]["addresses"].items() if not value]
    if empty:
        print(
            f"Before publishing, set {', '.join(empty)} in [tool.sknn_deep.addresses] of "
            "pyproject.toml: without them the package's page has no links and no pictures."
        )


if __name__ == "__main__":
    main()
