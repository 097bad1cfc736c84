"""pelure authorities for interop tests, run in the test's own event loop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from interop.ctor import free_port, seed_shared_random
from pelure.tor.authority.config import AuthorityConfig
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.keys import AuthorityKeys
from pelure.tor.authority.schedule import VotingTimes
from pelure.tor.authority.server import Authority
from pelure.tor.directory.network import parse_network

# The very timing of the C tor harness's authorities.
TIMES = VotingTimes(10, 2, 2, 12, initial_interval=5, initial_vote_delay=2, initial_dist_delay=2)


@dataclass(frozen=True)
class PreparedAuthority:
    """An authority with keys and ports, to be named in ``DirAuthority`` lines before it starts."""

    nickname: str
    data: Path
    dir_port: int
    or_port: int
    v3ident: bytes

    @property
    def line(self) -> str:
        """Its ``DirAuthority`` line; it has no relay half here, so that its fingerprint is of no relay."""
        return (
            f"DirAuthority {self.nickname} orport={self.or_port} no-v2 v3ident={self.v3ident.hex().upper()} "
            f"127.0.0.1:{self.dir_port} {self.v3ident.hex().upper()}"
        )

    def authority(self, network_torrc: str, expected_relays: int = 0) -> Authority:
        """The authority of the network described by ``network_torrc``; not started."""
        return Authority(
            AuthorityConfig(
                nickname=self.nickname,
                data=self.data,
                network=parse_network(network_torrc),
                ip="127.0.0.1",
                dir_port=self.dir_port,
                or_port=self.or_port,
                times=TIMES,
                flags=FlagOptions.for_testing(),
                contact=f"{self.nickname}@example.net",
                allow_private_addresses=True,
                has_ipv6=True,
                expected_relays=expected_relays,
            )
        )


def prepare_authority(nickname: str, folder: Path, *, seed: bool = True) -> PreparedAuthority:
    """Make keys and choose ports; ``seed``: start with the shared random values of the C tor harness."""
    data = folder / nickname
    dir_port = free_port()
    keys = AuthorityKeys.create(data, f"127.0.0.1:{dir_port}", time.time(), identity_bits=2048)
    if seed:
        seed_shared_random(data)
    return PreparedAuthority(nickname, data, dir_port, free_port(), keys.identity)
