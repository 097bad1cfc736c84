"""Relays: C tor's and pelure's, one at a time and as whole networks, on one machine (issue 3).

*One middle relay*: a C tor client downloads through a circuit pinned to C tor relays, but for the middle
one, which is C tor or pelure in turns: its processor time per full cell of data, its memory under that load,
and with idle circuits that lead through it.

*Whole paths*: a network of C tor and one of pelure (``pelure net up``, one worker process a core), each with
3 authorities and 5 relays, with clients and services of both kinds on each; the four take turns. Downloads
from an onion service over 1 and 4 streams of one circuit, and from an exit; time to first byte as in
``onion.py``; the relays' processor time per full cell and hop, 6 hops to an onion service (3 of the client,
4 of the service, which share the rendezvous point), 3 to an exit. C tor has ``Schedulers Vanilla`` and
acknowledgements at once (see ``support/namespace.py``); both networks have the congestion control thresholds
that embedded ones have, with which C tor's is as fast as with its own defaults.
Run: ``python -m benchmarks.relay [--quick]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.support import accounting, endpoints
from benchmarks.support.endpoints import CTOR, KINDS, PELURE, Endpoint, Place
from benchmarks.support.fetching import SMALL, Via, download, first_byte
from benchmarks.support.figures import Figures
from benchmarks.support.file_server import file_server
from benchmarks.support.harness import CTorNetwork, free_port
from benchmarks.support.idle_circuits import with_idle_circuits
from benchmarks.support.namespace import run, say
from benchmarks.support.pinned import circuit, pinned_client

from pelure.tor.embedded.worker import CONGESTION_PARAMS

MB = 1_000_000
AUTHORITIES = 3
RELAYS = 5
STREAMS = (1, 4)
ONION_HOPS = 6
EXIT_HOPS = 3
WARM_REQUESTS = 10


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, bytes of a download, idle circuits.

    ``settle``: seconds that single relays get first. A C tor relay triples its memory when it has compressed
    its first consensuses.
    """

    rounds: int
    size: int
    idle: int
    settle: float


FULL = Plan(rounds=7, size=80 * MB, idle=10_000, settle=25.0)
QUICK = Plan(rounds=1, size=8 * MB, idle=500, settle=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small downloads, one run, few idle circuits")
    plan = QUICK if parser.parse_args().quick else FULL
    run("relay", lambda: measure(plan))


def measure(plan: Plan) -> None:
    """Whole paths, then one relay; and report."""
    figures = Figures("relay")
    with file_server(SMALL, *(plan.size // streams for streams in STREAMS)) as port:
        whole_paths(figures, plan, port)
        one_relay(figures, plan, port)
    figures.report()


# -- whole paths


@dataclass(frozen=True)
class Whole:
    """Relays of one kind (``pids``: their processes), with a client and a service of one kind at the ends."""

    relays: str
    pids: Sequence[int]
    place: Place
    client: Endpoint
    service: Endpoint

    @property
    def name(self) -> str:
        return f"{self.relays} relays, {self.client.kind} ends"


def whole_paths(figures: Figures, plan: Plan, port: int) -> None:
    """All four combinations of relays and ends, in turns."""
    with ExitStack() as stack:
        say(f"starting {AUTHORITIES} authorities and {RELAYS} relays of C tor, and as many of pelure")
        network = stack.enter_context(
            CTorNetwork(fast=True, authorities=AUTHORITIES, relays=RELAYS, params=CONGESTION_PARAMS)
        )
        relays = [*network.authorities, *network.relays]
        places = [(CTOR, Place(network, network.network_file), [one.node.pid for one in relays])]
        places.append((PELURE, *stack.enter_context(embedded_network())))
        say("starting the clients and services")
        wholes = [
            Whole(
                *(name, pids, place),
                client=stack.enter_context(endpoints.client(kind, place)),
                service=stack.enter_context(endpoints.service(kind, place, port)),
            )
            for kind in KINDS
            for name, place, pids in places
        ]
        for number in range(plan.rounds):
            say(f"whole paths, round {number + 1} of {plan.rounds}")
            one_round(figures, plan.size, wholes, number, port)


@contextmanager
def embedded_network() -> Iterator[tuple[Place, list[int]]]:
    """A network of pelure relays, in which C tor processes can be started too; and its worker processes."""
    with TemporaryDirectory(prefix="pelure-bench-") as name:
        folder = Path(name)
        options = ("--dir", str(folder / "net"), "--relays", str(RELAYS), "--authorities", str(AUTHORITIES))
        with endpoints.pelure("--state", str(folder), "net", "up", *options, log=folder / "log") as command:
            file = Path(command.wait("up")["network"])
            authorities = [line for line in file.read_text().splitlines() if line.startswith("DirAuthority")]
            pids = json.loads((folder / "net" / "network.json").read_text())["workers"]
            inside = CTorNetwork(authorities=0, relays=0, outside_authorities=authorities, fast=True)
            try:
                yield Place(inside, file), pids
            finally:
                inside.stop()


def one_round(figures: Figures, size: int, wholes: Sequence[Whole], number: int, port: int) -> None:
    """Each quantity once, on one combination after the other."""
    for whole in wholes:
        seconds = endpoints.cold(whole.client.kind, whole.place, [whole.service])
        figures.add("onion, first byte, cold", whole.name, seconds[0] * 1000, "ms")
        via = Via(whole.client.socks, f"round{number}")
        first_byte(via, whole.service.address)  # joins the circuit that the round's transfers share
        warm = [first_byte(via, whole.service.address) for _ in range(WARM_REQUESTS)]
        figures.add("onion, first byte, warm", whole.name, statistics.median(warm) * 1000, "ms")
    for streams in STREAMS:
        for whole in wholes:
            row = "onion, 1 stream" if streams == 1 else f"onion, {streams} streams"
            through(figures, row, whole, whole.service.address, [size // streams] * streams, number)
    for whole in wholes:
        through(figures, "exit, 1 stream", whole, f"127.0.0.1:{port}", [size], number)


def through(figures: Figures, row: str, whole: Whole, host: str, sizes: Sequence[int], number: int) -> None:
    """One download; what it cost the relays, and the peak of their memory."""
    hops = EXIT_HOPS if row.startswith("exit") else ONION_HOPS
    via = Via(whole.client.socks, f"round{number}")
    first_byte(via, host)
    for pid in whole.pids:
        accounting.reset_peak(pid)
    before = accounting.cpu_seconds(whole.pids)
    seconds = download(via, host, sizes)
    micros = accounting.micros_per_cell(accounting.cpu_seconds(whole.pids) - before, sum(sizes)) / hops
    memory = sum(accounting.memory(pid, "VmHWM") for pid in whole.pids)
    figures.add(row, whole.name, sum(sizes) / MB / seconds, "MB/s")
    figures.add(f"{row}, CPU of a relay", whole.name, micros, "µs per cell and hop")
    figures.add(f"{row}, memory of all relays", whole.name, memory, "MB")


# -- one middle relay


@dataclass(frozen=True)
class Middle:
    """A relay in a process of its own."""

    kind: str
    fingerprint: str
    pid: int

    @property
    def name(self) -> str:
        return f"{self.kind} middle relay"


def one_relay(figures: Figures, plan: Plan, port: int) -> None:
    """Relays of both kinds in one C tor network take turns in the middle; fresh ones for idle circuits."""
    say("starting an authority and 4 relays of C tor, and 2 relays of pelure")
    network = CTorNetwork(fast=True, authorities=1, relays=4)
    with ExitStack() as stack:
        stack.callback(network.stop)
        ours = [stack.enter_context(pelure_relay(network, f"pelure{number}")) for number in range(2)]
        network.measure(*(one.fingerprint for one in ours))
        network.start()
        network.wait_ready([one.fingerprint for one in ours])
        first, last, *theirs = [Middle(CTOR, one.fingerprint, one.node.pid) for one in network.relays]
        client = stack.enter_context(pinned_client(network))
        time.sleep(plan.settle)
        for number in range(plan.rounds):
            say(f"one middle relay, round {number + 1} of {plan.rounds}")
            for middle in (theirs[0], ours[0]):
                with circuit(client, [one.fingerprint for one in (first, middle, last)]) as via:
                    through_middle(figures, middle, via, f"127.0.0.1:{port}", plan.size)
        for middle in (theirs[1], ours[1]):
            idle_memory(figures, plan, network, middle, last)


@contextmanager
def pelure_relay(network: CTorNetwork, name: str) -> Iterator[Middle]:
    """A relay of pelure, to be in the C tor network when that is up."""
    with TemporaryDirectory(prefix="pelure-bench-") as folder:
        base = ("--network", str(network.network_file), "--state", folder)
        options = ("--nickname", name, "--orport", f"127.0.0.1:{free_port()}", "--dir", f"{folder}/relay")
        with endpoints.pelure(*base, "relay", *options, log=Path(folder, "log")) as command:
            yield Middle(PELURE, str(command.wait("listening")["fingerprint"]), command.process.pid)


def idle_memory(figures: Figures, plan: Plan, network: CTorNetwork, middle: Middle, last: Middle) -> None:
    """Memory of a relay that has carried nothing yet, before and with idle circuits through it."""
    figures.add("memory of a fresh relay", middle.name, accounting.memory(middle.pid), "MB")
    memory = with_idle_circuits(
        network.network_file,
        [middle.fingerprint, last.fingerprint],
        plan.idle,
        lambda: accounting.memory(middle.pid),
    )
    figures.add(f"memory with {plan.idle:,} idle circuits", middle.name, memory, "MB")


def through_middle(figures: Figures, middle: Middle, via: Via, host: str, size: int) -> None:
    """One download through the circuit of ``via``; what it cost the middle relay."""
    first_byte(via, host)
    accounting.reset_peak(middle.pid)
    before = accounting.cpu_seconds([middle.pid])
    seconds = download(via, host, [size])
    micros = accounting.micros_per_cell(accounting.cpu_seconds([middle.pid]) - before, size)
    figures.add("exit stream through one middle relay", middle.name, size / MB / seconds, "MB/s")
    figures.add("CPU of the middle relay", middle.name, micros, "µs per cell")
    figures.add("memory under this load", middle.name, accounting.memory(middle.pid, "VmHWM"), "MB")


if __name__ == "__main__":
    main()
