"""The HTTP file server of the Tor benchmarks, in a process of its own so that it limits nobody.

``python -m benchmarks.support.file_server SIZE…`` prints its port; ends when standard input does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.support.harness import FileServer, payload
from benchmarks.support.namespace import BenchmarkError


@contextmanager
def file_server(*sizes: int) -> Iterator[int]:
    """Run it with the files of these sizes made in advance; gives its port."""
    command = [sys.executable, "-m", __name__, *map(str, sizes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchmarkError("the file server did not start")
        yield int(line)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    for size in sys.argv[1:]:
        payload(int(size))
    with FileServer() as server:
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
