"""Where a result comes from: commit, command, machine. Written into every JSON file of results."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).resolve().parent


def commit() -> str | None:
    """The commit of the git checkout that this package lies in, None if it was installed from elsewhere."""
    top = _git("rev-parse", "--show-toplevel")
    # Installed into a virtual environment inside someone else's repository, that repository's commit would say nothing.
    return _git("rev-parse", "HEAD") if top is not None and Path(top).resolve() == PACKAGE.parent else None


def changed_since_commit() -> bool:
    """Whether the package's files differ from its commit."""
    return commit() is not None and bool(_git("status", "--porcelain", "--untracked-files=no", "--", "."))


def command() -> str:
    """The command line as it was typed, without the program's folder."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def package_version() -> str | None:
    """Version of the installed package, None where it is only a folder on the path."""
    try:
        return version("irlvla")
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and NumPy."""
    return {"python": sys.version.split()[0], "numpy": np.__version__}


def machine() -> dict[str, Any]:
    """Processor, logical cores that this process may use, load when asked, operating system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
    }


def cores() -> int:
    """Cores that this process may use: its affinity, cut to the container's share."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        share, period = quota.read_text().split()[:2]
        if share != "max":
            count = min(count, max(1, round(int(share) / int(period))))
    return count


def code_hash(names: tuple[str, ...]) -> str:
    """Hash of source files and folders of the package, by which results of other code are told apart."""
    digest = hashlib.sha256()
    for name in names:
        for source in sorted((PACKAGE / name).rglob("*.py")) if (PACKAGE / name).is_dir() else [PACKAGE / name]:
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
