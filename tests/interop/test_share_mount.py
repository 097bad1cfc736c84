"""A mounted share as the usual tools see it: searching, checking, seeking, changes, a publisher that dies."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.commands import Command
from interop.sharing import Person, make_folder
from pelure.share.patience import WAIT_SECONDS

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        not os.environ.get("CI") and not (os.path.exists("/dev/fuse") and shutil.which("fusermount3")),
        reason="FUSE is not there (Debian: apt-get install fuse3)",
    ),
]
FILM_SIZE = 24_000_000
SUMS = "find . -type f -print0 | sort -z | xargs -0 sha256sum"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mount-network")
    with Command("net", "up", "--dir", str(folder / "net"), log=folder / "log") as up:
        yield Path(up.wait("up")["network"])


def _tool(folder: Path, command: str) -> list[str]:
    """The sorted lines that a shell command prints in ``folder``; it has to succeed."""
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return sorted(done.stdout.splitlines())


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _until(true: Callable[[], bool]) -> None:
    """Wait until another process has made it ``true``."""
    ends = time.monotonic() + 120
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.05)


def test_usual_tools(network: Path, tmp_path: Path) -> None:
    publisher, reader = Person(network, tmp_path / "publisher"), Person(network, tmp_path / "reader")
    folder = make_folder(tmp_path / "folder", big=FILM_SIZE, small=60)
    (folder / "deep" / "er" / "hay").write_text("hay\n" * 5000 + "a needle\n")
    film = (folder / "big.bin").read_bytes()
    command, links = publisher.share(folder, "--to", "alice", "--live")
    mounted = tmp_path / "mounted"
    with command, reader.start("mount", links["alice"]["link"], str(mounted)) as mount:
        mount.wait("mounted")
        assert _tool(mounted, "find . -type f -o -type l") == _tool(folder, "find . -type f -o -type l")
        assert _tool(mounted, "find . -type d") == _tool(folder, "find . -type d")

        before = _on_disk(reader.home / "state")
        with (mounted / "big.bin").open("rb", buffering=0) as file:
            for place in (20_000_000, 1_234_567, FILM_SIZE - 100, 9_999_999):
                assert os.pread(file.fileno(), 1000, place) == film[place : place + 1000]
        assert _on_disk(reader.home / "state") - before < FILM_SIZE / 4

        found = _tool(mounted, "grep -rn needle deep")
        assert found == ["deep/er/hay:5001:a needle"]
        assert _tool(mounted, SUMS) == _tool(folder, SUMS)

        (folder / "hay").write_text("new")
        (folder / "deep" / "er" / "hay").unlink()
        _until(lambda: (mounted / "hay").exists() and not (mounted / "deep" / "er" / "hay").exists())
        assert (mounted / "hay").read_text() == "new"

        mount.process.send_signal(signal.SIGKILL)  # what it leaves mounted does not stop the next one
        mount.process.wait()
        with reader.start("mount", links["alice"]["link"], str(mounted)) as again:
            again.wait("mounted")
            assert (mounted / "hay").read_text() == "new"


def _write_as_owner(owner: Person, link: str, place: Path, folder: Path, seen: Path) -> None:
    """The owner's mount of a share that is not ``--live``: readers see what is done in it."""
    with owner.start("mount", link, str(place)) as mount:
        assert mount.wait("mounted")["writable"]
        (place / "letters").mkdir()
        (place / "letters" / "first.txt").write_text("dear reader\n")
        _until((seen / "letters" / "first.txt").exists)
        assert (seen / "letters" / "first.txt").read_text() == "dear reader\n"
        (place / "letters" / "first.txt").rename(place / "last.txt")
        (place / "big.bin").unlink()
        _until(lambda: (seen / "last.txt").exists() and not (seen / "big.bin").exists())
    assert _tool(seen, SUMS) == _tool(folder, SUMS)


def test_a_publisher_that_dies_and_comes_back(network: Path, tmp_path: Path) -> None:
    publisher, reader = Person(network, tmp_path / "publisher"), Person(network, tmp_path / "reader")
    folder = make_folder(tmp_path / "folder", big=6_000_000, small=3)
    film = (folder / "big.bin").read_bytes()
    command, links = publisher.share(folder, "--to", "alice")
    mounted = tmp_path / "mounted"
    with reader.start("mount", links["alice"]["link"], str(mounted)) as mount:
        mount.wait("mounted")
        with (mounted / "big.bin").open("rb", buffering=0) as file:
            begun = os.pread(file.fileno(), 1000, 0)
            command.process.send_signal(signal.SIGKILL)
            command.process.wait()
            outcomes: list[bytes | OSError] = []

            def read_on() -> None:
                try:
                    outcomes.append(os.pread(file.fileno(), 1_000_000, 5_000_000))
                except OSError as error:
                    outcomes.append(error)

            reading = threading.Thread(target=read_on)
            reading.start()
            command, _ = publisher.share(folder, "--to", "alice")
            with command:
                reading.join(200)
                assert begun == film[:1000]
                assert outcomes == [film[5_000_000:]]  # it has waited
                assert _tool(mounted, SUMS) == _tool(folder, SUMS)
                _write_as_owner(publisher, links["alice"]["link"], tmp_path / "own", folder, mounted)


@pytest.mark.soak
def test_a_publisher_that_stays_away(network: Path, tmp_path: Path) -> None:
    """A read fails once the documented wait is over, the next ones soon, and all is right when it is back."""
    publisher, reader = Person(network, tmp_path / "publisher"), Person(network, tmp_path / "reader")
    folder = make_folder(tmp_path / "folder", big=6_000_000, small=3)
    film = (folder / "big.bin").read_bytes()
    command, links = publisher.share(folder, "--to", "alice")
    mounted = tmp_path / "mounted"

    def fails(start: int) -> float:
        """How long it takes until a read of the film fails."""
        began = time.monotonic()
        with pytest.raises(OSError) as failed, (mounted / "big.bin").open("rb", buffering=0) as file:
            os.pread(file.fileno(), 1000, start)
        assert failed.value.errno == errno.EIO
        return time.monotonic() - began

    with reader.start("mount", links["alice"]["link"], str(mounted)) as mount:
        mount.wait("mounted")
        with (mounted / "big.bin").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 1000, 0) == film[:1000]
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        assert WAIT_SECONDS - 1 < fails(5_000_000) < 1.5 * WAIT_SECONDS
        assert fails(4_000_000) < WAIT_SECONDS / 2
        with (mounted / "big.bin").open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), 1000, 0) == film[:1000]
        assert (mounted / "deep").is_dir()
        command, _ = publisher.share(folder, "--to", "alice")
        with command:
            _until_sums_are_right(mounted, folder)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_never_wrong_bytes(network: Path, tmp_path: Path) -> None:
    """A publisher killed at any moment, once for longer than readers wait: right bytes or EIO, no others."""
    chance = random.Random(5)
    publisher = Person(network, tmp_path / "publisher")
    folder = make_folder(tmp_path / "folder", big=8_000_000, small=120)
    contents = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    names = sorted(contents)
    for away in (1.1 * WAIT_SECONDS, 0, 1, 3, 5, 8):
        reader = Person(network, tmp_path / f"reader-{away}")
        mounted = tmp_path / f"mounted-{away}"
        command, links = publisher.share(folder, "--to", "alice")
        with reader.start("mount", links["alice"]["link"], str(mounted)) as mount:
            mount.wait("mounted")
            results: list[bool | int | None] = []
            stop = threading.Event()

            def read_at_random() -> None:
                source = random.Random(away)  # noqa: B023 - the thread ends within the round
                while not stop.is_set():  # noqa: B023
                    name = source.choice(names)
                    start = source.randrange(len(contents[name]) + 1)
                    try:
                        with (mounted / name).open("rb", buffering=0) as file:  # noqa: B023
                            got = os.pread(file.fileno(), 50_000, start)
                        results.append(got == contents[name][start : start + 50_000])  # noqa: B023
                    except OSError as error:
                        results.append(error.errno)  # noqa: B023

            reading = threading.Thread(target=read_at_random)
            reading.start()
            time.sleep(chance.uniform(0, 0.5))
            command.process.send_signal(signal.SIGKILL)
            command.process.wait()
            time.sleep(away)
            command, _ = publisher.share(folder, "--to", "alice")
            with command:
                time.sleep(2)
                stop.set()
                reading.join(300)
                _until_sums_are_right(mounted, folder)
            assert set(results) <= {True, errno.EIO}


def _until_sums_are_right(mounted: Path, folder: Path) -> None:
    """Circuits come back within a minute or so; errors until then are allowed, other sums are not."""
    right = _tool(folder, SUMS)

    def all_right() -> bool:
        done = subprocess.run(["sh", "-c", SUMS], cwd=mounted, capture_output=True, text=True, check=False)
        assert set(done.stdout.splitlines()) <= set(right)
        return done.returncode == 0

    _until(all_right)
