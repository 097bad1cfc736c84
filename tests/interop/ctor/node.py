"""One C tor process: its folder, torrc, start, control port, logs, stop."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import stem
from stem.control import Controller

# It reports every closed control connection at length.
logging.getLogger("stem").propagate = False

START_SECONDS = 120.0
STOP_SECONDS = 15.0
# Below the ephemeral range of Linux (32768 up), so that no outgoing connection takes a chosen port.
# Each worker of pytest-xdist (gw0, gw1, …) has its own share of them.
_WORKERS = 8
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_PORTS = range(10000 + _WORKER, 32000, _WORKERS)
_given_ports: set[int] = set()

_BLAMES_A_DOCUMENT = re.compile(
    r"pars|malformed|invalid|unrecognized|unverif|not sign|bad signature|bad digest|truncated",
    re.IGNORECASE,
)

COMMON = """
Address 127.0.0.1
AssumeReachable 1
EnforceDistinctSubnets 0
ExtendAllowPrivateAddresses 1
ClientRejectInternalAddresses 0
ClientDNSRejectInternalAddresses 0
PathsNeededToBuildCircuits 0.67
ShutdownWaitLength 0
TestingClientDownloadInitialDelay 0
TestingServerDownloadInitialDelay 0
TestingClientConsensusDownloadInitialDelay 0
TestingServerConsensusDownloadInitialDelay 0
ClientBootstrapConsensusAuthorityDownloadInitialDelay 0
ClientBootstrapConsensusFallbackDownloadInitialDelay 0
ClientBootstrapConsensusAuthorityOnlyDownloadInitialDelay 0
ProtocolWarnings 1
SafeLogging 0
LogTimeGranularity 1
NumCPUs 1
CookieAuthentication 1
ControlPort 127.0.0.1:auto
"""


class CTorError(RuntimeError):
    """A C tor process failed to start, stopped by itself, or did not do what was waited for."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens and that this process gave to nobody else."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise CTorError("no free TCP port on 127.0.0.1")


def wait_until(condition: Callable[[], bool], what: str, seconds: float, pause: float = 0.1) -> None:
    """Poll ``condition`` until it holds. Raises :class:`CTorError` naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CTorError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)  # another program, whose files and ports are all there is to see: it sends no event


class Node:
    """A C tor process with its own folder; ``lines`` is the part of its torrc that makes its role."""

    def __init__(self, name: str, folder: Path, lines: str) -> None:
        self.name = name
        self.folder = folder
        self.data = folder / "data"
        self.lines = lines
        self.process: subprocess.Popen[bytes] | None = None
        self._controller: Controller | None = None
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.data.chmod(0o700)

    @property
    def log_path(self) -> Path:
        return self.folder / "notice.log"

    def log(self) -> str:
        """Everything the process logged at notice level and above (and its standard output)."""
        parts = [path.read_text(errors="replace") for path in (self.log_path, self._output) if path.exists()]
        return "".join(parts)

    def warnings(self) -> list[str]:
        """The lines it logged as ``[warn]`` or ``[err]``."""
        return [line for line in self.log().splitlines() if "[warn]" in line or "[err]" in line]

    def document_warnings(self) -> list[str]:
        """Warnings and errors that blame a document, signature, cell or certificate that it was given."""
        return [line for line in self.warnings() if _BLAMES_A_DOCUMENT.search(line)]

    @property
    def _output(self) -> Path:
        return self.folder / "stdout.log"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} is not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, network_lines: str, *, override: Sequence[str] = ()) -> None:
        """Write the torrc and start the process; does not wait for it to be of use."""
        assert not self.running, f"{self.name} already runs"
        empty = self.folder / "empty"
        empty.touch()
        text = [
            COMMON,
            network_lines,
            f"DataDirectory {self.data}",
            f"GeoIPFile {empty}\nGeoIPv6File {empty}\nServerDNSResolvConfFile {empty}",
            f"ControlPortWriteToFile {self.folder / 'control'}",
            f"Log notice file {self.log_path}",
            f"__OwningControllerProcess {os.getpid()}",
            self.lines,
            *override,
        ]
        torrc = self.folder / "torrc"
        torrc.write_text("\n".join(text) + "\n")
        (self.folder / "control").unlink(missing_ok=True)
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                ["tor", "-f", str(torrc), "--defaults-torrc", str(empty), "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # an interrupt of the tests must not stop it before its tests end
            )

    def wait_for_control(self) -> None:
        """Wait until the control port is open. Raises :class:`CTorError` with the log's end."""

        def open_or_dead() -> bool:
            return (self.folder / "control").exists() or not self.running

        wait_until(open_or_dead, f"{self.name} to start", START_SECONDS, 0.05)
        if not self.running:
            raise CTorError(f"{self.name} stopped while starting:\n{self.log()[-4000:]}")

    @property
    def control_port(self) -> int:
        self.wait_for_control()
        return int((self.folder / "control").read_text().rpartition(":")[2])

    @property
    def controller(self) -> Controller:
        """An authenticated stem controller, kept open until the node stops."""
        if self._controller is None or not self._controller.is_alive():
            controller = Controller.from_port(port=self.control_port)
            controller.authenticate()
            self._controller = controller
        return self._controller

    def listener(self, kind: str = "socks") -> int:
        """The port on which the process listens for ``kind`` (socks, or, dir, httptunnel)."""
        answer = self.controller.get_info(f"net/listeners/{kind}")
        return int(answer.split()[0].strip('"').rpartition(":")[2])

    def wait_bootstrapped(self, seconds: float = START_SECONDS) -> None:
        """Wait for ``Bootstrapped 100%``. Raises :class:`CTorError` with the log's end."""

        def done_or_dead() -> bool:
            return not self.running or "PROGRESS=100" in self.controller.get_info("status/bootstrap-phase")

        try:
            wait_until(done_or_dead, f"{self.name} to bootstrap", seconds)
        except CTorError as error:
            raise CTorError(f"{error}\n{self.log()[-4000:]}") from None
        if not self.running:
            raise CTorError(f"{self.name} stopped:\n{self.log()[-4000:]}")

    def knows(self, fingerprints: Iterable[str]) -> bool:
        """Whether the consensus that this process uses lists all these relays."""
        try:
            entries = self.controller.get_info("ns/all")
        except stem.ControllerError:
            return False  # it has no consensus yet
        listed = {line.split()[2] for line in entries.splitlines() if line.startswith("r ")}
        return all(b64encode(bytes.fromhex(one)).decode().rstrip("=") in listed for one in fingerprints)

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._end(lambda process: process.kill())

    def stop(self) -> None:
        """Ask the process to stop, and end it when it does not."""
        self._end(lambda process: process.terminate())

    def _end(self, signal: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._controller is not None:
            self._controller.close()
            self._controller = None
        if self.process is None:
            return
        if self.running:
            signal(self.process)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
