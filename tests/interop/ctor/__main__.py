"""``python -m interop.ctor [--relays N] [--fast] [--interval S]``: run a network until SIGINT or SIGTERM.

Prints the path of its network file, then one line for each relay.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from interop.ctor.network import CTorNetwork


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m interop.ctor", description="Run a private C tor network."
    )
    parser.add_argument("--authorities", type=int, default=3)
    parser.add_argument("--relays", type=int, default=5)
    parser.add_argument("--interval", type=int, default=10, help="voting interval in seconds, 10 or more")
    parser.add_argument(
        "--fast", action="store_true", help="Schedulers Vanilla: C tor's best setting on loopback"
    )
    parser.add_argument("--client", action="store_true", help="also run a client and print its SOCKS port")
    parser.add_argument("--dir", type=Path, help="folder of the network; kept when it ends")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with CTorNetwork(
        authorities=options.authorities,
        relays=options.relays,
        interval=options.interval,
        fast=options.fast,
        folder=options.dir.resolve() if options.dir else None,
    ) as network:
        print(network.network_file, flush=True)
        for relay in [*network.authorities, *network.relays]:
            print(
                f"{relay.nickname} {relay.fingerprint} 127.0.0.1:{relay.or_port} pid {relay.node.pid}",
                flush=True,
            )
        if options.client:
            print(f"socks {network.client().socks}", flush=True)
        while not stop.wait(1.0):
            pass


if __name__ == "__main__":
    main()
