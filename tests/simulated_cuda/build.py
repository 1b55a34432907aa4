"""Compile the simulated device for the torch that is installed, once for each version of both."""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).with_name("source")
BUILDS = Path(__file__).parents[2] / "build" / "simulated_cuda"
COMPILER = "g++"
_COMPILE = ["-O1", "-std=c++20", "-fPIC", "-w", "-c"]


def reason_to_skip() -> str:
    """Return why the device cannot be simulated here, "" if it can."""
    if sys.platform != "linux":
        return f"the simulated CUDA device needs Linux, this is {sys.platform}"
    if shutil.which(COMPILER) is None:
        return f"the simulated CUDA device needs {COMPILER}, which is not installed"
    if any((_torch() / "lib" / f"libtorch_{gpu}.so").exists() for gpu in ("cuda", "hip", "xpu")):
        return "the simulated CUDA device needs torch's build for the CPU, this one has a GPU's"
    return ""


def library() -> Path:
    """Return the compiled device; compile it, which takes 10 to 30 seconds, if it is new."""
    folder = BUILDS / _key()
    built = folder / "libsimulated_cuda.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file, or with the process
        if not built.exists():
            unfinished = _compile(folder)
            unfinished.replace(built)
    return built


def _torch() -> Path:
    """Return torch's folder without importing it."""
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])


def _key() -> str:
    """Return what the library depends on, as a name."""
    digest = hashlib.sha256(" ".join(_COMPILE).encode())
    digest.update(importlib.metadata.version("torch").encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _compile(folder: Path) -> Path:
    torch = _torch()
    include = [f"-I{torch}/include", f"-I{torch}/include/torch/csrc/api/include"]
    objects = {source: folder / f"{source.stem}.o" for source in SOURCES.glob("*.cpp")}
    _run_together(
        [COMPILER, *_COMPILE, *include, str(source), "-o", str(target)]
        for source, target in objects.items()
    )
    linked = folder / "unfinished.so"
    libraries = [f"-L{torch}/lib", "-lc10", "-ltorch_cpu", "-ltorch", f"-Wl,-rpath,{torch}/lib"]
    parts = [str(target) for target in objects.values()]
    _run_together([[COMPILER, "-shared", *parts, "-o", str(linked), *libraries]])
    for part in objects.values():
        part.unlink()
    return linked


def _run_together(commands) -> None:
    running = [
        (command, subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        for command in commands
    ]
    for command, process in running:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{errors}")
