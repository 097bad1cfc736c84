"""The private network itself: authorities, relays, clients, onion services, and when it is up.

The torrc settings are those measured to bring a network up in less than half a minute; see the comment
beside each group.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from interop.ctor.keys import make_authority_keys, make_rsa_identity
from interop.ctor.node import START_SECONDS, CTorError, Node, free_port, wait_until

READY_FLAGS = {"Fast", "Guard", "HSDir", "Running", "V2Dir", "Valid"}

# The shortest voting interval that tor allows is 10 s; valid-until is far enough that a missed vote on a
# loaded machine leaves a live consensus behind.
_AUTHORITY = """
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ExitPolicy reject *:*
V3AuthVotingInterval {interval}
V3AuthVoteDelay 2
V3AuthDistDelay 2
V3AuthNIntervalsValid 12
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingAuthDirTimeToLearnReachability 0
AuthDirMaxServersPerAddr 0
MinUptimeHidServDirectoryV2 0
TestingMinFastFlagThreshold 0
TestingMinExitFlagThreshold 0
AuthDirFastGuarantee 1
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
"""

_RELAY = """
ExitRelay 1
ExitPolicy accept *:*
ExitPolicyRejectPrivate 0
DirCache 1
"""


@dataclass
class OnionRelay:
    """An authority or relay of the network; ``fingerprint`` is its RSA identity digest in upper-case hex."""

    node: Node
    nickname: str
    fingerprint: str
    or_port: int
    dir_port: int = 0
    v3ident: str = ""

    @property
    def ed25519(self) -> bytes:
        """The 32-byte Ed25519 identity, once the relay has started."""
        text = (self.node.data / "fingerprint-ed25519").read_text().split()[1]
        return base64.b64decode(text + "=" * (-len(text) % 4))


class Client:
    """A bootstrapped C tor client; ``socks`` is its SOCKS port."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.socks = node.listener("socks")

    def stop(self) -> None:
        self.node.stop()


class Service:
    """A C tor onion service whose descriptors are on their HSDirs."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.node = node
        self.directory = directory
        self.address = (directory / "hostname").read_text().strip()

    def stop(self) -> None:
        self.node.stop()


class _UploadWatch:
    """Counts HS_DESC events: published when every upload asked for, of both descriptors, was confirmed."""

    def __init__(self, node: Node) -> None:
        self._asked: set[tuple[str, str]] = set()
        self._done: set[str] = set()
        self._lock = threading.Lock()
        node.controller.add_event_listener(self._event, "HS_DESC")

    def _event(self, event: object) -> None:
        action, directory = getattr(event, "action", ""), str(getattr(event, "directory_fingerprint", ""))
        with self._lock:
            if action == "UPLOAD":
                self._asked.add((str(getattr(event, "descriptor_id", "")), directory))
            elif action == "UPLOADED":
                self._done.add(directory)

    def published(self) -> bool:
        with self._lock:
            descriptors = {descriptor for descriptor, _ in self._asked}
            return len(descriptors) >= 2 and {directory for _, directory in self._asked} <= self._done


class CTorNetwork:
    """A private C tor network; use as a context manager or call :meth:`start` and :meth:`stop`.

    ``fast`` runs every process with ``Schedulers Vanilla`` (C tor's best setting on loopback). ``params`` are
    consensus parameters. ``outside_authorities`` are ``DirAuthority`` lines of authorities run by somebody
    else.
    """

    def __init__(
        self,
        *,
        authorities: int = 3,
        relays: int = 5,
        interval: int = 10,
        fast: bool = False,
        params: Mapping[str, int] | None = None,
        outside_authorities: Iterable[str] = (),
        extra: str = "",
        folder: Path | None = None,
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pelure-ctor-"))
        self.interval = interval
        self.extra = extra + ("\nSchedulers Vanilla" if fast else "")
        self.params = dict(params or {})
        self._outside = list(outside_authorities)
        self._counter = 0
        self._others: list[Node] = []
        self._measured: set[str] = set()
        self._bandwidths = self.folder / "bandwidths"
        with ThreadPoolExecutor(4) as threads:
            self.authorities = list(threads.map(self._make_authority, range(authorities)))
        self.relays = [self._make_relay(f"relay{index}") for index in range(relays)]
        self.measure(*(relay.fingerprint for relay in [*self.authorities, *self.relays]))

    # -- what others need to know

    @property
    def network_torrc(self) -> str:
        """The network in torrc syntax: ``TestingTorNetwork 1`` and the ``DirAuthority`` lines."""
        lines = ["TestingTorNetwork 1"]
        lines += [
            f"DirAuthority {one.nickname} orport={one.or_port} no-v2 v3ident={one.v3ident} "
            f"127.0.0.1:{one.dir_port} {one.fingerprint}"
            for one in self.authorities
        ]
        return "\n".join([*lines, *self._outside]) + "\n"

    @property
    def network_file(self) -> Path:
        """A file with :attr:`network_torrc`, for ``pelure --network FILE``."""
        path = self.folder / "network.torrc"
        path.write_text(self.network_torrc)
        return path

    @property
    def nodes(self) -> list[Node]:
        return [relay.node for relay in [*self.authorities, *self.relays]] + self._others

    def relay(self, fingerprint_or_nickname: str) -> OnionRelay:
        """Find one of this network's authorities or relays. Raises ``KeyError``."""
        wanted = fingerprint_or_nickname.upper().lstrip("$")
        for one in [*self.authorities, *self.relays]:
            if wanted in (one.fingerprint, one.nickname.upper()):
                return one
        raise KeyError(fingerprint_or_nickname)

    def directory(self, path: str, authority: int = 0) -> bytes:
        """GET ``path`` (``/tor/status-vote/current/consensus-microdesc``, …) from an authority's DirPort.

        Raises ``OSError`` (``urllib.error.HTTPError`` with the status) when it has no such document.
        """
        url = f"http://127.0.0.1:{self.authorities[authority].dir_port}{path}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bytes(answer.read())

    def consensus_flags(self, authority: int = 0) -> dict[str, set[str]]:
        """The flags of each relay in the authority's current consensus, by fingerprint (upper-case hex)."""
        try:
            text = self.directory("/tor/status-vote/current/consensus", authority).decode()
        except (urllib.error.HTTPError, OSError):
            return {}
        flags: dict[str, set[str]] = {}
        fingerprint = ""
        for line in text.splitlines():
            if line.startswith("r "):
                fingerprint = base64.b64decode(line.split()[2] + "=").hex().upper()
            elif line.startswith("s") and line[1:2] in ("", " ") and fingerprint:
                flags[fingerprint] = set(line.split()[1:])
        return flags

    def logs(self, lines: int = 15) -> str:
        """The last log lines of every process, for the report of a failed test."""
        parts = []
        for node in self.nodes:
            state = "running" if node.running else "stopped"
            parts.append(f"--- {node.name} ({state})\n" + "\n".join(node.log().splitlines()[-lines:]))
        return "\n".join(parts)

    # -- life

    def __enter__(self) -> CTorNetwork:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, wait: bool = True) -> None:
        """Start authorities and relays; wait until all of them are in the consensus with their flags."""
        for relay in [*self.authorities, *self.relays]:
            self._start(relay.node)
        if wait:
            self.wait_ready()
            # A relay that lacks microdescriptors costs the clients that ask it a retry interval of 10 s.
            for relay in self.relays:
                relay.node.wait_bootstrapped()

    def wait_ready(self, fingerprints: Iterable[str] | None = None, seconds: float = START_SECONDS) -> None:
        """Wait until each relay (default: the network's own) has all flags in every authority's consensus.

        And until every relay here has a consensus that lists them: an exit ends streams that come from a
        relay which it does not know (``refuseunknownexits``) with reason MISC. Raises :class:`CTorError` with
        the logs' ends.
        """
        wanted = list(fingerprints) if fingerprints is not None else [one.fingerprint for one in self.relays]

        def ready() -> bool:
            for index, authority in enumerate(self.authorities):
                if not authority.node.running:
                    continue
                flags = self.consensus_flags(index)
                if not all(flags.get(one, set()) >= READY_FLAGS for one in wanted):
                    return False
            return all(relay.node.knows(wanted) for relay in self.relays if relay.node.running)

        try:
            wait_until(ready, "the consensus to list every relay with its flags", seconds, 0.25)
        except CTorError as error:
            raise CTorError(f"{error}\n{self.logs()}") from None

    def stop(self) -> None:
        """Stop every process and delete the folder, when it was made by this object."""
        for node in self.nodes:
            if node.process is not None and node.running:
                node.process.terminate()
        for node in self.nodes:
            node.stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, relay: OnionRelay | str) -> OnionRelay:
        """End a relay's process as a crash does; it stays in the consensus as Running."""
        found = self.relay(relay) if isinstance(relay, str) else relay
        found.node.kill()
        return found

    def restart(self, relay: OnionRelay | str) -> OnionRelay:
        """Start a killed relay again, with its old keys and ports."""
        found = self.relay(relay) if isinstance(relay, str) else relay
        found.node.stop()
        self._start(found.node)
        return found

    def measure(self, *fingerprints: str) -> None:
        """Put relays into the authorities' bandwidth file (equal weights); used from the next vote on."""
        self._measured.update(one.upper().lstrip("$") for one in fingerprints)
        lines = [str(int(time.time()))] + [f"node_id=${one} bw=10000" for one in sorted(self._measured)]
        new = self._bandwidths.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self._bandwidths)

    # -- clients and services

    def client(self, *, authorizations: Path | None = None, extra: str = "", wait: bool = True) -> Client:
        """Start a C tor client and wait until it has bootstrapped.

        ``authorizations`` is a folder of ``.auth_private`` files (``ClientOnionAuthDir``).
        """
        lines = f"SocksPort 127.0.0.1:auto\n{extra}"
        if authorizations is not None:
            lines += f"\nClientOnionAuthDir {authorizations}"
        node = self._other("client", lines)
        if wait:
            node.wait_bootstrapped()
        return Client(node)

    def service(
        self,
        ports: Mapping[int, int | str],
        *,
        directory: Path | None = None,
        authorized: Mapping[str, str] | None = None,
        extra: str = "",
        service_extra: str = "",
        seconds: float = START_SECONDS,
    ) -> Service:
        """Start a C tor onion service and wait until its descriptors are uploaded.

        ``ports`` maps virtual ports to loopback ports (or whole targets). ``directory`` is a HiddenServiceDir
        (made if None). ``authorized`` maps client names to base32 x25519 public keys; ``service_extra`` are
        torrc lines of the service (``HiddenService…``).
        """
        name = self._name("service")
        home = directory or self.folder / name / "hs"
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        if authorized:
            clients = home / "authorized_clients"
            clients.mkdir(exist_ok=True)
            clients.chmod(0o700)
            for client, key in authorized.items():
                (clients / f"{client}.auth").write_text(f"descriptor:x25519:{key}\n")
        lines = [f"SocksPort 0\n{extra}\nHiddenServiceDir {home}\n{service_extra}"]
        for port, target in ports.items():
            lines.append(
                f"HiddenServicePort {port} {target if isinstance(target, str) else f'127.0.0.1:{target}'}"
            )
        # The events of the first uploads would be missed if tor began before anybody listened.
        node = self._other(name, "\n".join(lines), override=["DisableNetwork 1"])
        watch = _UploadWatch(node)
        node.controller.set_conf("DisableNetwork", "0")
        try:
            wait_until(watch.published, f"{name} to publish", seconds)
        except CTorError as error:
            raise CTorError(f"{error}\n{node.log()[-4000:]}") from None
        return Service(node, home)

    # -- making nodes

    def _name(self, kind: str) -> str:
        self._counter += 1
        return f"{kind}{self._counter}"

    def _other(self, name: str, lines: str, override: Iterable[str] = ()) -> Node:
        if name == "client":
            name = self._name(name)
        node = Node(name, self.folder / name, lines)
        self._others.append(node)
        self._start(node, override)
        node.wait_for_control()
        return node

    def _start(self, node: Node, override: Iterable[str] = ()) -> None:
        node.start(self.network_torrc + self.extra, override=list(override))

    def _make_authority(self, index: int) -> OnionRelay:
        name = f"auth{index}"
        or_port, dir_port = free_port(), free_port()
        lines = _AUTHORITY.format(interval=self.interval)
        lines += f"Nickname {name}\nContactInfo {name}@example.net\nSocksPort 0\n"
        lines += (
            f"ORPort 127.0.0.1:{or_port}\nDirPort 127.0.0.1:{dir_port}\nV3BandwidthsFile {self._bandwidths}\n"
        )
        if self.params:
            lines += (
                "ConsensusParams " + " ".join(f"{key}={value}" for key, value in self.params.items()) + "\n"
            )
        node = Node(name, self.folder / name, lines)
        fingerprint = make_rsa_identity(node.data)
        v3ident = make_authority_keys(node.data, dir_port)
        seed_shared_random(node.data)
        return OnionRelay(node, name, fingerprint, or_port, dir_port, v3ident)

    def _make_relay(self, name: str) -> OnionRelay:
        or_port = free_port()
        lines = f"{_RELAY}Nickname {name}\nSocksPort 0\nORPort 127.0.0.1:{or_port}\n"
        node = Node(name, self.folder / name, lines)
        return OnionRelay(node, name, make_rsa_identity(node.data), or_port)


def seed_shared_random(data: Path) -> None:
    """Write an ``sr-state`` with values of the last two protocol runs.

    A fresh network would otherwise have no shared randomness until its first full protocol run has ended.
    """
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 86400))
    previous, current = (
        base64.b64encode(hashlib.sha3_256(name).digest()).decode() for name in (b"old", b"new")
    )
    state = data / "sr-state"
    state.write_text(
        f"Version 1\nTorVersion Tor 0.4.9.11\nValidUntil {until}\n"
        f"SharedRandPreviousValue 3 {previous}\nSharedRandCurrentValue 3 {current}\n"
    )
    state.chmod(0o600)
