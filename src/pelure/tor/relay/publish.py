"""A relay's descriptor and extra-info: built, signed and uploaded to every authority (dir-spec 2.1, 3.1)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from pelure.errors import DirectoryError, PelureError
from pelure.streams import SocketStream
from pelure.tor.directory.network import DirAuthority, Network
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.router_descriptor_build import (
    DescriptorFacts,
    build_extra_info,
    build_router_descriptor,
)
from pelure.tor.net import dir_http
from pelure.tor.relay.config import RelayConfig
from pelure.tor.relay.keys import RelayKeys

log = logging.getLogger(__name__)

PLATFORM = "Tor 0.4.9.11 on pelure"
"""Authorities want a version that they know: this is the one whose protocols are spoken here."""
PROTOCOLS = Protocols.parse(
    "Cons=1-2 Desc=1-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=3-5 LinkAuth=3 "
    "Microdesc=1-3 Relay=2-4"
)
"""What the code here does: not conflux, circuit padding, or the relay cryptography of Relay=5 and 6."""

REPUBLISH_SECONDS = 18 * 3600.0
RETRY_SECONDS = 120.0
TESTING_RETRY_SECONDS = 0.5
UPLOAD_SECONDS = 60.0
REFUSED_SECONDS = 3600.0
TESTING_REFUSED_SECONDS = 30.0
"""After so long a new descriptor is made for who refuses the old one: the clock may have been set right."""
MAX_REASON = 200


def build_documents(
    config: RelayConfig,
    keys: RelayKeys,
    orport: int,
    ipv6: tuple[str, int] | None,
    observed: int,
    uptime: float,
    now: float,
) -> tuple[bytes, bytes]:
    """The signed descriptor and extra-info.

    ``ipv6``: the address and ORPort to tell beside the IPv4 ones; ``observed``: bytes a second; ``uptime``:
    seconds.
    """
    descriptor_keys = keys.descriptor_keys
    facts = DescriptorFacts(
        nickname=config.nickname,
        ip=config.address,
        orport=orport,
        ipv6=ipv6,
        platform=PLATFORM,
        protocols=PROTOCOLS,
        published=now,
        bandwidth=(config.bandwidth_rate, config.bandwidth_burst, min(observed, config.bandwidth_rate)),
        uptime=int(uptime),
        exit_policy=config.exit_policy.lines(),
        ipv6_policy=config.exit_policy.summary(6) if config.ipv6_exit else None,
        family=config.family,
        contact=config.contact,
        tunnelled_dir_server=config.directory_cache,
    )
    extra_info = build_extra_info(config.nickname, now, descriptor_keys)
    return build_router_descriptor(facts, descriptor_keys, extra_info), extra_info


async def upload(authority: DirAuthority, documents: bytes) -> None:
    """POST ``documents`` to an authority's DirPort. Raises ``DirectoryError`` or ``OSError``."""
    async with asyncio.timeout(UPLOAD_SECONDS):
        stream = await SocketStream.connect(authority.ip, authority.dirport)
        try:
            response = await dir_http.post(stream, "/tor/", documents)
        finally:
            await stream.close()
    if response.status != 200:
        reason = response.reason[:MAX_REASON] or f"status {response.status}"
        raise DirectoryError(f"it refuses the descriptor: {reason}")


class Publisher:
    """Uploads what ``make`` builds: at once, when asked to again, and every 18 hours."""

    def __init__(
        self, network: Network, make: Callable[[], bytes], on_accepted: Callable[[str], None]
    ) -> None:
        """``on_accepted`` hears the nickname of each authority that took the documents."""
        self._network = network
        self._make = make
        self._on_accepted = on_accepted
        self._wanted = asyncio.Event()
        self._retry = TESTING_RETRY_SECONDS if network.testing else RETRY_SECONDS
        self._refused_for = TESTING_REFUSED_SECONDS if network.testing else REFUSED_SECONDS
        self._told: dict[str, str] = {}
        self.published_at = 0.0

    def publish(self) -> None:
        """Build and upload anew."""
        self._wanted.set()

    async def run(self) -> None:
        """Keep the authorities up to date; never returns."""
        while True:
            self._wanted.clear()
            documents = self._make()
            self.published_at = time.time()
            authorities = [one for one in self._network.authorities if one.dirport]
            await asyncio.gather(*(self._upload_until_taken(one, documents) for one in authorities))
            try:
                async with asyncio.timeout(REPUBLISH_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _upload_until_taken(self, authority: DirAuthority, documents: bytes) -> None:
        """Authorities may be down for a while; gives up when something newer is to be published."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._refused_for
        while not self._wanted.is_set():
            try:
                await upload(authority, documents)
                self._told.pop(authority.nickname, None)
                self._on_accepted(authority.nickname)
                return
            except (PelureError, OSError, TimeoutError) as error:
                said = error.strerror if isinstance(error, OSError) else str(error)
                self._tell(authority, said or "no answer")
                if isinstance(error, DirectoryError) and loop.time() > end:
                    self.publish()
            try:
                async with asyncio.timeout(self._retry):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    def _tell(self, authority: DirAuthority, reason: str) -> None:
        """Warn of what is not published, each reason once."""
        if self._told.get(authority.nickname) != reason:
            self._told[authority.nickname] = reason
            log.warning("authority %s has no descriptor of this relay yet: %s", authority.nickname, reason)
