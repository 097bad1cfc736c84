"""How long a network of one's own takes: ``pelure net up`` to a page fetched from an onion service in it.

A new folder each run, so that keys are made too; then ``pelure onion serve`` and ``pelure proxy`` are started
together, and curl fetches a page by the proxy as soon as both are ready. Times are wall clock from the start
of ``net up``, the commands' own starts included. Run: ``python -m benchmarks.net_up [--quick]``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.results import report
from benchmarks.support.harness import Command, curl, free_port

PAGE = b"<!doctype html><title>pelure</title><p>It works."
STEPS = ("network ready", "service published", "page fetched")


class Site(BaseHTTPRequestHandler):
    """A web site of one page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Nothing is of interest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run")
    runs = 1 if parser.parse_args().quick else 5
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    times: dict[str, list[float]] = {step: [] for step in STEPS}
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="pelure-bench-") as folder:
            for step, seconds in once(Path(folder), site.server_port).items():
                times[step].append(seconds)
                print(f"run {number + 1}: {step} after {seconds:.2f} s", file=sys.stderr, flush=True)
    site.shutdown()
    for step, values in times.items():
        report(benchmark="net_up", row=step, subject="pelure", unit="s", runs=values)


def once(folder: Path, site: int) -> dict[str, float]:
    """Seconds from the start to each step."""
    socks = free_port()
    started = time.perf_counter()
    times = {}
    with Command("--state", str(folder / "net"), "net", "up", log=folder / "net.log") as network:
        file = network.wait("up")["network"]
        times["network ready"] = time.perf_counter() - started
        common = ("--network", file, "--state")
        proxy = ("proxy", "--socks", f"127.0.0.1:{socks}")
        serve = ("onion", "serve", "--port", f"80:127.0.0.1:{site}", "--dir", str(folder / "onion"))
        with (
            Command(*common, str(folder / "s"), *serve, log=folder / "serve.log") as service,
            Command(*common, str(folder / "c"), *proxy, log=folder / "proxy.log") as client,
        ):
            client.wait("listening")
            address = service.wait("published")["address"]
            times["service published"] = time.perf_counter() - started
            fetched = curl(f"http://{address}/", socks, timeout=60)
            times["page fetched"] = time.perf_counter() - started
    if fetched.body != PAGE:
        raise RuntimeError(f"the page came with {fetched.size} bytes, status {fetched.status}")
    return times


if __name__ == "__main__":
    main()
