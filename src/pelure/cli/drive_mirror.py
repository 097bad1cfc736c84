"""Mirrors run by commands: what they did is counted, and told as it happens."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from pelure.cli.drive_store import tell_step
from pelure.cli.output import Output
from pelure.errors import DriveError
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror, MirrorOptions, Step
from pelure.web.listing import readable_size

PROGRESS_SECONDS = 0.2
"""How often progress is told."""


class Pass:
    """Counts the steps of mirrors and tells them, or, if not ``each``, only the problems."""

    def __init__(self, output: Output, what: str, each: bool) -> None:
        self.output = output
        self.what = what
        self.each = each
        self.count: Counter[str] = Counter()
        self.bytes = self.done = 0
        self._mirror: Mirror | None = None
        self._told = 0.0
        self._told_problems: set[tuple[str, str | None]] = set()

    def progress(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._show()

    def _show(self) -> None:
        self.output.progress(self.what, self.done, self._mirror.total if self._mirror else None)

    def tell(self, step: Step) -> None:
        self.count[step.operation] += 1
        if step.operation == "problem":
            if (step.path, step.reason) in self._told_problems:
                return  # each pass finds it again
            self._told_problems.add((step.path, step.reason))
        if step.operation in ("add", "change", "rename", "equal"):
            self.bytes += step.size
        if self.each or step.operation == "problem":
            tell_step(self.output, step)

    async def run(self, mirror: Mirror) -> None:
        self._mirror = mirror
        async for step in mirror.steps():
            self.tell(step)
        self._show()
        self.output.finish()

    @property
    def files(self) -> int:
        return sum(self.count[operation] for operation in ("add", "change", "rename", "equal"))

    def check(self) -> None:
        """Raises ``DriveError`` if something was left out."""
        if self.count["problem"]:
            raise DriveError(f"{self.count['problem']} files were left out; see above")


async def write_out(source: Drive, folder: Path, output: Output, options: MirrorOptions) -> None:
    started = time.monotonic()
    done = Pass(output, str(folder), options.dry_run)
    options.progress = done.progress
    local = LocalDrive(folder, create=True)
    try:
        await done.run(Mirror(source, local, options))
    finally:
        local.close()
    seconds = round(time.monotonic() - started, 3)
    text = f"{done.files} files, {readable_size(done.bytes)} in {folder}"
    output.event("complete", text, files=done.files, bytes=done.bytes, seconds=seconds)
    done.check()
