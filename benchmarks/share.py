"""Private links beside a bare file over an onion circuit, and beside OnionShare (issue 5, throughput).

Embedded network: ``pelure get`` of a shared file over one onion circuit and over its default of four, and
the same file from ``pelure onion serve`` with ``pelure get-url``, over one circuit of the same length: who
keeps a service's keys gets full vanguards, as shares do, which are a hop more. C tor network, default
settings: ``pelure share`` and ``pelure get`` as they are, and OnionShare with C tor at both ends, fetched
by curl through the SOCKS port, which is what Tor Browser gives. The kinds take turns; every copy is
compared with the original. Rates are from being connected to the end. Run: ``python -m benchmarks.share
[--quick]``.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.results import report
from benchmarks.support.harness import Client, Command, CTorNetwork, curl
from benchmarks.support.onionshare import OnionShare, OnionShareError, installed
from benchmarks.support.pelure_fetch import FetchError, Person, get_link, get_url, sha256

MB = 1_000_000
BARE, ONE, MANY = "bare file, 1 circuit", "pelure get, 1 circuit", "pelure get, 4 circuits"
ONIONSHARE = "OnionShare, C tor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small files, one run")
    quick = parser.parse_args().quick
    runs = 1 if quick else 3
    with tempfile.TemporaryDirectory(prefix="pelure-bench-") as folder:
        on_embedded(Path(folder), 20 * MB if quick else 100 * MB, runs)
        on_ctor(Path(folder), 10 * MB if quick else 50 * MB, runs)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tell(place: str, size: int, seconds: dict[str, list[float]], base: str) -> None:
    """Report the rates, and what they are as multiples of ``base``'s in the same round."""
    for subject, runs in seconds.items():
        rates = [size / MB / one for one in runs]
        report(
            benchmark="share", row=f"{place}, {size // MB} MB file", subject=subject, unit="MB/s", runs=rates
        )
    for subject, runs in seconds.items():
        if subject != base and seconds.get(base):
            ratios = [other / one for one, other in zip(runs, seconds[base], strict=True)]
            row = f"{place}, {base} = 1"
            report(benchmark="share", row=row, subject=subject, unit="rate", runs=ratios)


def make_file(folder: Path, size: int) -> Path:
    """A file of random bytes, alone in a new ``folder``."""
    folder.mkdir()
    file = folder / "file.bin"
    file.write_bytes(os.urandom(size))
    return file


# -- the embedded network


@contextmanager
def embedded(folder: Path) -> Iterator[Path]:
    """A network of pelure relays; gives its network file."""
    folder.mkdir()
    with Command("--state", str(folder), "net", "up", log=folder / "net.log") as network:
        yield Path(network.wait("up")["network"])


def on_embedded(folder: Path, size: int, runs: int) -> None:
    """Measure on the embedded network."""
    file = make_file(folder / "one", size)
    seconds: dict[str, list[float]] = {BARE: [], ONE: [], MANY: []}
    with (
        embedded(folder / "network") as network,
        Person(network, folder / "publisher").start("share", str(file.parent), "--to", "one") as share,
        serve_site(network, folder / "site", file.parent) as site,
    ):
        link = share.wait("link")["link"]
        share.wait("published")
        address = site.wait("published")["address"]
        for number in range(runs):
            say(f"embedded network, round {number + 1} of {runs}")
            seconds[BARE].append(get_url(network, folder, f"http://{address}/{file.name}", file))
            seconds[ONE].append(get_link(network, folder, link, file, "--circuits", "1"))
            seconds[MANY].append(get_link(network, folder, link, file))
    tell("embedded network", size, seconds, BARE)


def serve_site(network: Path, home: Path, site: Path) -> Command:
    """The folder ``site`` as an onion service that keeps its keys."""
    return Person(network, home).start("onion", "serve", "--site", str(site), "--dir", str(home / "keys"))


# -- the C tor network


def on_ctor(folder: Path, size: int, runs: int) -> None:
    """Measure on a network of C tor processes."""
    seconds: dict[str, list[float]] = {ONIONSHARE: [], MANY: []}
    ready: dict[str, list[float]] = {ONIONSHARE: [], MANY: []}
    try:
        program = installed()
    except OnionShareError as error:
        say(f"no rows of OnionShare, for it can't be installed: {error}")
        program = None
        del seconds[ONIONSHARE], ready[ONIONSHARE]
    with CTorNetwork(relays=8) as network:
        publisher, reader = network.client(), network.client()
        for number in range(runs):
            say(f"C tor network, round {number + 1} of {runs}")
            file = make_file(folder / f"ctor-{number}", size)
            if program is not None:
                home = folder / f"onionshare-{number}"
                shared, fetched = with_onionshare(program, publisher, reader, file, home)
                ready[ONIONSHARE].append(shared)
                seconds[ONIONSHARE].append(fetched)
            shared, fetched = with_pelure(network.network_file, folder, file)
            ready[MANY].append(shared)
            seconds[MANY].append(fetched)
    tell("C tor network", size, seconds, ONIONSHARE)
    for subject, times in ready.items():
        row = "C tor network, from the command to a published link"
        report(benchmark="share", row=row, subject=subject, unit="s", runs=times)


def with_onionshare(
    program: Path, publisher: Client, reader: Client, file: Path, home: Path
) -> tuple[float, float]:
    """Share a new file and fetch it; seconds until it was published, and from the first byte to the end."""
    with OnionShare(program, publisher.node.control_port, file, home) as running:
        shared = running.shared()
        name = shared.host.removesuffix(".onion")
        key = base64.b64encode(shared.private_key).decode()
        reader.node.controller.msg(f"ONION_CLIENT_AUTH_ADD {name} x25519:{key}")
        fetched = curl(f"http://{shared.host}/download", reader.socks, timeout=240)
        if fetched.status != 200 or fetched.sha256 != sha256(file):
            raise FetchError(f"OnionShare gave {fetched.size} bytes with status {fetched.status}")
        return shared.seconds, fetched.total - fetched.first_byte


def with_pelure(network: Path, folder: Path, file: Path) -> tuple[float, float]:
    """The same with a private link."""
    started = time.monotonic()
    with Person(network, folder / "ctor-publisher").start("share", str(file.parent), "--to", "one") as share:
        link = share.wait("link")["link"]
        share.wait("published")
        ready = time.monotonic() - started
        return ready, get_link(network, folder, link, file)


if __name__ == "__main__":
    main()
