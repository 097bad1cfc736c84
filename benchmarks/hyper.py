"""Drives side by side with npm hyperdrive: import, replication over TCP, ranges, a million entries.

Every operation runs in a fresh process with a fresh store (``support/npm_bench.js``,
``support/hyper_worker.py``) and says how long it took and the most memory that it used; npm's and pelure's
take turns. Goals: twice as fast as npm in every row, linked import five times, in less memory.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import report

HERE = Path(__file__).parent
MIB = 1 << 20
NPM, PELURE, LINKED = "npm hyperdrive", "pelure", "pelure, linked"
COMMANDS = {
    NPM: ["node", str(HERE / "support" / "npm_bench.js")],
    PELURE: [sys.executable, "-m", "benchmarks.support.hyper_worker"],
}

Answer = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much of everything; ``file`` in MiB."""

    file: int
    files: int
    entries: int
    ranges: int
    runs: int


FULL = Sizes(file=1024, files=10_000, entries=1_000_000, ranges=30, runs=3)
QUICK = Sizes(file=64, files=500, entries=5_000, ranges=5, runs=1)


class Bench:
    """Runs the operations in ``folder`` and collects what they measured, by row and subject."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes
        self.file = folder / "file"
        self.files = folder / "files"
        self._figures: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def make_sources(self) -> None:
        """The files to import; none of their blocks are alike."""
        source = random.Random(4)
        with self.file.open("wb") as file:
            for _ in range(self.sizes.file):
                file.write(source.randbytes(MIB))
        self.files.mkdir()
        for number in range(self.sizes.files):
            (self.files / f"file {number}").write_bytes(source.randbytes(1024))

    def run(self) -> None:
        """All rows, as often as the sizes say."""
        for number in range(self.sizes.runs):
            note(f"run {number + 1} of {self.sizes.runs}")
            one = {subject: self.import_file(subject) for subject in (NPM, PELURE)}
            self.import_linked_file()
            many = {subject: self.import_files(subject) for subject in (NPM, PELURE)}
            self.import_linked_files()
            self.replicate(f"1 file of {self.sizes.file} MiB", "MiB/s", self.sizes.file, one)
            self.replicate(f"{self.sizes.files:,} files of 1 KiB", "files/s", self.sizes.files, many)
            self.read_ranges(one)
            for store in self.folder.glob("store *"):
                shutil.rmtree(store)
        for subject in (NPM, PELURE):
            self.use_entries(subject)

    def report(self) -> None:
        for (row, subject, unit), runs in self._figures.items():
            report(benchmark="hyper", row=row, subject=subject, unit=unit, runs=runs)

    # -- rows --

    def import_file(self, subject: str) -> Answer:
        store = self.folder / f"store one {subject}"
        answer = run(subject, "import-file", store, self.file)
        row = f"import of 1 file of {self.sizes.file} MiB"
        self.note(row, subject, "MiB/s", self.sizes.file / answer["seconds"])
        self.note(f"peak memory: {row}", subject, "MiB", answer["peak"])
        return {**answer, "store": store}

    def import_linked_file(self) -> None:
        with self.fresh("linked") as store:
            answer = run(PELURE, "import-file", store, self.file, "link")
        row = f"import of 1 file of {self.sizes.file} MiB"
        self.note(row, LINKED, "MiB/s", self.sizes.file / answer["seconds"])
        self.note(f"peak memory: {row}", LINKED, "MiB", answer["peak"])

    def import_files(self, subject: str) -> Answer:
        """One by one in a store that is thrown away, and in a batch in one that is kept."""
        row = f"import of {self.sizes.files:,} files of 1 KiB"
        with self.fresh("single") as store:
            self._import_files(subject, store, "one", f"{row}, one by one")
        store = self.folder / f"store many {subject}"
        return {**self._import_files(subject, store, "batch", f"{row}, in a batch"), "store": store}

    def _import_files(self, subject: str, store: Path, how: str, row: str) -> Answer:
        answer = run(subject, "import-folder", store, self.files, how)
        self.note(row, subject, "files/s", self.sizes.files / answer["seconds"])
        self.note(f"peak memory: {row}", subject, "MiB", answer["peak"])
        return answer

    def import_linked_files(self) -> None:
        row = f"import of {self.sizes.files:,} files of 1 KiB, in a batch"
        with self.fresh("linked") as store:
            answer = run(PELURE, "import-folder", store, self.files, "linked")
        self.note(row, LINKED, "files/s", self.sizes.files / answer["seconds"])
        self.note(f"peak memory: {row}", LINKED, "MiB", answer["peak"])

    def replicate(self, what: str, unit: str, amount: int, sources: dict[str, Answer]) -> None:
        """To an empty peer of the same kind, and both ways between the two kinds."""
        for source, target in ((NPM, NPM), (PELURE, PELURE), (NPM, PELURE), (PELURE, NPM)):
            row = f"replication of {what}"
            if source != target:
                row += ", from npm" if source == NPM else ", to npm"
            with served(source, sources[source]["store"]) as server, self.fresh("reader") as store:
                answer = run(target, "fetch", store, *place(sources[source], server))
            self.note(row, PELURE if source != target else target, unit, amount / answer["seconds"])
            if source == target:
                self.note(f"peak memory: {row}, sender", source, "MiB", server["peak"])
                self.note(f"peak memory: {row}, receiver", target, "MiB", answer["peak"])

    def read_ranges(self, sources: dict[str, Answer]) -> None:
        starts = ranges(self.sizes)
        for subject, source in sources.items():
            with served(subject, source["store"]) as server, self.fresh("reader") as store:
                answer = run(subject, "ranges", store, *place(source, server), starts)
            runs = sorted(answer["milliseconds"])
            self.note("range of 1 MiB, sparse reader", subject, "ms", runs[len(runs) // 2])

    def use_entries(self, subject: str) -> None:
        count = self.sizes.entries
        with self.fresh("entries") as store:
            made = run(subject, "make-entries", store, count)
            used = run(subject, "use-entries", store, count)
        self.note(f"{count:,} entries: made, in batches", subject, "entries/s", count / made["seconds"])
        self.note(f"{count:,} entries: listed", subject, "entries/s", count / used["list"])
        self.note(f"{count:,} entries: one looked up", subject, "µs", used["lookup"] * 1e6)
        self.note(f"{count:,} entries: diff, 1 % changed", subject, "ms", used["diff"] * 1e3)
        self.note(f"peak memory: {count:,} entries, making", subject, "MiB", made["peak"])
        self.note(f"peak memory: {count:,} entries, using", subject, "MiB", used["peak"])

    # -- help --

    def note(self, row: str, subject: str, unit: str, value: float) -> None:
        self._figures[row, subject, unit].append(value)
        note(f"{row}, {subject}: {value:,.1f} {unit}")

    @contextmanager
    def fresh(self, name: str) -> Iterator[Path]:
        """A new store, deleted afterwards."""
        store = self.folder / f"store {name}"
        try:
            yield store
        finally:
            shutil.rmtree(store, ignore_errors=True)


def ranges(sizes: Sizes) -> str:
    """Where the ranges begin: none overlaps another, so that none is here already."""
    places = random.Random(9).sample(range(sizes.file // 2 - 1), sizes.ranges)
    return ",".join(str(2 * MIB * place + 12_345) for place in places)


def place(source: Answer, server: Answer) -> Sequence[object]:
    """How a reader finds the drive: key, version, port."""
    return source["key"], source["version"], server["port"]


def run(subject: str, command: str, *arguments: object) -> Answer:
    """Run one operation as a process; return what it says. Raises ``CalledProcessError`` if it fails."""
    line = [*COMMANDS[subject], command, *map(str, arguments)]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True, cwd=HERE.parent)
    return dict(json.loads(done.stdout))


@contextmanager
def served(subject: str, store: Path) -> Iterator[Answer]:
    """A process that serves the store; what it says when it ends is added to the answer."""
    process = subprocess.Popen(
        [*COMMANDS[subject], "serve", str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HERE.parent,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        answer: Answer = json.loads(process.stdout.readline())
        yield answer
        process.stdin.close()
        answer.update(json.loads(process.stdout.readline()))
        process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def note(text: str) -> None:
    """Say on standard error how it goes."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hyper", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one run")
    sizes = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory(prefix="pelure-bench-") as folder:
        bench = Bench(Path(folder), sizes)
        bench.make_sources()
        bench.run()
        bench.report()


if __name__ == "__main__":
    main()
