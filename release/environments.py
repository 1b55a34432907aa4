"""Test the package with every supported Python and with the oldest and the newest torch.

    python3 release/environments.py                       # all of them
    python3 release/environments.py 3.12 3.13 --torch newest
    python3 release/environments.py --tests tests/test_persistence.py

For each pair it makes an environment in a temporary folder, installs the package with its tests'
needs, and runs the tests that take seconds. At the end it prints a table; what a machine cannot
install, because an interpreter or a build of torch is missing, is said there and is not tested.
Interpreters are looked for on the PATH and among pyenv's. On Linux torch comes with CUDA unless pip
finds a CPU-only build, so an environment may take 6 GB; it is removed before the next is made.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
TORCHES = {"oldest": "2.10.0", "newest": "2.13.0"}
TESTS = [
    "tests/engine",
    "tests/networks",
    "tests/model_selection",
    "tests/estimators/test_supervised.py",
    "tests/estimators/test_autoencoder.py",
    "tests/estimators/test_tables.py",
    "tests/test_persistence.py",
]


def find_python(version: str) -> str | None:
    """Return an interpreter of a version such as "3.12", or None."""
    found = shutil.which(f"python{version}")
    candidates = [found] if found else []
    candidates += [
        str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    ]
    for candidate in candidates:  # pyenv has a command for versions that are not switched on
        asked = subprocess.run([candidate, "-m", "venv", "-h"], capture_output=True, check=False)
        if asked.returncode == 0:
            return candidate
    return None


def constraints_with(torch: str) -> str:
    """Return the constraints with another torch, whose own needs are left to pip."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    kept = re.sub(r"^(torch|sympy|mpmath|networkx|fsspec|setuptools)==.*\n", "", text, flags=re.M)
    return f"{kept}torch=={torch}\n"


def try_pair(version: str, torch: str, tests: list[str]) -> str:
    """Return what came of one Python and one torch."""
    interpreter = find_python(version)
    if interpreter is None:
        return "untested: no interpreter on this machine"
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "environment", "bin", "python")
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(constraints_with(torch), encoding="utf-8")
        made = _run([interpreter, "-m", "venv", "--without-pip", Path(folder, "environment")])
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "-q",
            "--no-cache-dir",
        ]
        installed = made and _run([*install, "-c", constraints, f"{ROOT}[test]"])
        if not installed:
            return "untested: it could not be installed"
        fast = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2"]
        passed = _run([python, "-m", "pytest", *fast, *tests])
    return "passed" if passed else "FAILED"


def _run(command: list[str | Path]) -> bool:
    print("$", *command, flush=True)
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pythons", nargs="*", default=PYTHONS, metavar="PYTHON")
    parser.add_argument("--torch", choices=TORCHES, action="append")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    arguments = parser.parse_args()
    results = {
        (python, torch): try_pair(python, torch, arguments.tests)
        for python in arguments.pythons
        for torch in (TORCHES[name] for name in arguments.torch or TORCHES)
    }
    print(f"\n{'Python':<8}{'torch':<9}result")
    for (python, torch), result in results.items():
        print(f"{python:<8}{torch:<9}{result}")
    sys.exit("FAILED" in results.values())


if __name__ == "__main__":
    main()
