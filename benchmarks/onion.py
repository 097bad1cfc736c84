"""Onion endpoints: C tor and pelure, as client and as service, on the same C tor relays (issue 2).

The four pairs take turns. ``1 stream`` and so on: downloads of the same size in all, each round over a new
circuit of its own that the pair has already joined. ``first byte, cold``: the first request of a fresh
client, bootstrapped and with the circuits it builds in advance, to a service it never asked for: descriptor,
introduction, rendezvous, stream. ``warm``: another request over a joined circuit. ``rendezvous``: requests
at once, each with SOCKS credentials of its own and so over circuits of its own. CPU time is that of the
client's or the service's process while one stream runs, per full cell of data; memory its peak while eight
run. All on one machine, in a namespace with quick acknowledgements (see ``support/namespace.py``), C tor with
``Schedulers Vanilla``. Run: ``python -m benchmarks.onion [--quick]``.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.support import accounting, endpoints
from benchmarks.support.endpoints import KINDS, Endpoint, Place
from benchmarks.support.fetching import SMALL, Via, download, first_byte, many
from benchmarks.support.figures import Figures
from benchmarks.support.file_server import file_server
from benchmarks.support.harness import CTorNetwork
from benchmarks.support.namespace import run, say

MB = 1_000_000
RELAYS = 5
STREAMS = (1, 4, 8)
WARM_REQUESTS = 10


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, bytes of a download, requests in all and at once for rendezvous."""

    rounds: int
    size: int
    requests: int
    at_once: int


FULL = Plan(rounds=7, size=80 * MB, requests=100, at_once=50)
QUICK = Plan(rounds=1, size=16 * MB, requests=20, at_once=20)


def pair_name(client: str, service: str) -> str:
    """A pair as it is called in the figures."""
    return f"{client} client, {service} service"


@dataclass(frozen=True)
class Pair:
    """A client and a service."""

    client: Endpoint
    service: Endpoint

    @property
    def name(self) -> str:
        return pair_name(self.client.kind, self.service.kind)

    @property
    def both(self) -> list[tuple[str, int]]:
        """Role and process of each end."""
        return [("client", self.client.pid), ("service", self.service.pid)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small downloads, one run")
    plan = QUICK if parser.parse_args().quick else FULL
    run("onion", lambda: measure(plan))


def measure(plan: Plan) -> None:
    """Run the network and everything in it, and report."""
    figures = Figures("onion")
    with ExitStack() as stack:
        port = stack.enter_context(file_server(SMALL, *(plan.size // streams for streams in STREAMS)))
        say(f"starting 3 authorities and {RELAYS} relays of C tor")
        network = stack.enter_context(CTorNetwork(fast=True, relays=RELAYS))
        place = Place(network, network.network_file)
        say("starting the services and clients")
        services = [stack.enter_context(endpoints.service(kind, place, port)) for kind in KINDS]
        clients = [stack.enter_context(endpoints.client(kind, place)) for kind in KINDS]
        pairs = [Pair(client, service) for client in clients for service in services]
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            first = number % len(pairs)  # many rendezvous leave a C tor client slower than they found it
            one_round(figures, plan, [*pairs[first:], *pairs[:first]], number)
            for kind in KINDS:
                seconds = endpoints.cold(kind, place, services)
                for service, value in zip(services, seconds, strict=True):
                    figures.add("first byte, cold", pair_name(kind, service.kind), value * 1000, "ms")
    figures.report()


def one_round(figures: Figures, plan: Plan, pairs: list[Pair], number: int) -> None:
    """Each quantity once, for one pair after the other."""
    for pair in pairs:
        via = Via(pair.client.socks, f"round{number}")
        first_byte(via, pair.service.address)  # joins the circuit that the round's transfers share
        warm = [first_byte(via, pair.service.address) for _ in range(WARM_REQUESTS)]
        figures.add("first byte, warm", pair.name, statistics.median(warm) * 1000, "ms")
    for streams in STREAMS:
        for pair in pairs:
            throughput(figures, plan.size, pair, Via(pair.client.socks, f"round{number}"), streams)
    for pair in pairs:
        via = Via(pair.client.socks, f"rendezvous{number}")
        rate = many(via, pair.service.address, plan.requests, plan.at_once)
        row = f"rendezvous, {plan.requests} by {plan.at_once} at once"
        figures.add(row, pair.name, rate, "per s")


def throughput(figures: Figures, size: int, pair: Pair, via: Via, streams: int) -> None:
    """One download over ``streams`` streams of one circuit; processor time with one, memory with most."""
    for _, pid in pair.both:
        accounting.reset_peak(pid)
    before = [accounting.cpu_seconds([pid]) for _, pid in pair.both]
    seconds = download(via, pair.service.address, [size // streams] * streams)
    after = [accounting.cpu_seconds([pid]) for _, pid in pair.both]
    row = "1 stream" if streams == 1 else f"{streams} streams"
    figures.add(row, pair.name, size / MB / seconds, "MB/s")
    for (role, pid), start, end in zip(pair.both, before, after, strict=True):
        if streams == STREAMS[0]:
            micros = accounting.micros_per_cell(end - start, size)
            figures.add(f"CPU of the {role}", pair.name, micros, "µs per cell")
        if streams == STREAMS[-1]:
            figures.add(f"peak memory of the {role}", pair.name, accounting.memory(pid, "VmHWM"), "MB")


if __name__ == "__main__":
    main()
