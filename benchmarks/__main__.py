"""``make bench``: every benchmark in turn; medians and ranges go to ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil
from benchmarks.results import Figure, parse, table

FOLDER = Path(__file__).parent
PAGE = FOLDER / "RESULTS.md"
HEAD = "# Results\n\nMedians, with the lowest and the highest run in brackets. Written by `make bench`.\n"
BENCHMARKS = ("onion", "relay", "consensus", "net_up", "hyper", "hyper_latency", "share")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones (default: {' '.join(BENCHMARKS)})")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run, no RESULTS.md")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {' '.join(unknown)}")
    for name in arguments.names or BENCHMARKS:
        text = section(name, run(name, ["--quick"] if arguments.quick else []))
        print(text)
        if not arguments.quick:
            write_page(name, text)


def run(name: str, options: Sequence[str]) -> list[Figure]:
    """Run one benchmark as its own process. Raises ``CalledProcessError`` if it fails."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, cwd=FOLDER.parent)
    return [parse(line) for line in done.stdout.splitlines()]


def section(name: str, figures: Sequence[Figure]) -> str:
    """One benchmark's part of the page: when and on what it was run, and its table."""
    today = datetime.date.today().isoformat()
    return f"## {name}\n\n`python -m benchmarks {name}`, {today}, {machine()}.\n\n{table(figures)}\n"


def machine() -> str:
    """The machine and the versions, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = psutil.virtual_memory().total / 2**30
    programs = [f"Python {platform.python_version()}", f"pelure {version('pelure')}"]
    programs += [said_by("tor", "--version"), said_by("node", "--version", "node ")]
    return f"{psutil.cpu_count()} cores of {model}, {memory:.0f} GiB, {', '.join(filter(None, programs))}"


def said_by(program: str, option: str, prefix: str = "") -> str:
    """The first line that ``program option`` prints, or nothing if it isn't there."""
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return prefix + done.stdout.splitlines()[0].rstrip(".")


def write_page(name: str, text: str) -> None:
    """Put one benchmark's part in its place on the page; the others stay as they were."""
    old = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
    parts = {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in old} | {name: text}
    PAGE.write_text("\n".join([HEAD, *(parts[one] for one in BENCHMARKS if one in parts)]))


if __name__ == "__main__":
    main()
