"""An authority's settings, also from torrc (tor manual, "DIRECTORY AUTHORITY SERVER OPTIONS")."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pelure.errors import ConfigError
from pelure.tor.authority.flags import FlagOptions
from pelure.tor.authority.reachability import Probe
from pelure.tor.authority.schedule import VotingTimes
from pelure.tor.directory.network import Network

Options = Mapping[str, Sequence[str]]
_SECONDS = {"": 1, "second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_AMOUNT = re.compile(r"(\d{1,9})\s*([a-z]*)", re.IGNORECASE)
_BYTES = {"": 1, "byte": 1, "kbyte": 1 << 10, "kb": 1 << 10, "mbyte": 1 << 20, "mb": 1 << 20, "gb": 1 << 30}


@dataclass(frozen=True, slots=True)
class AuthorityConfig:
    """One authority of ``network``, the one with v3 identity of its keys under ``data``.

    ``expected_relays``: once so many relays run the first consensus is made at once, not at the next
    interval (0: never); ``probe``: tells whether a relay answers; None: all are taken to run. ``has_ipv6``:
    this machine reaches IPv6 addresses, so that it can vote on them. The folder may hold an
    ``approved-routers`` file (:mod:`.relay_list`), which is read anew for each vote.
    """

    nickname: str
    data: Path
    network: Network
    ip: str
    dir_port: int
    or_port: int
    times: VotingTimes = field(default_factory=VotingTimes)
    flags: FlagOptions = field(default_factory=FlagOptions)
    params: Mapping[str, int] = field(default_factory=dict)
    contact: str = "(none)"
    bandwidth_file: Path | None = None
    allow_private_addresses: bool = False
    has_ipv6: bool = False
    expected_relays: int = 0
    probe: Probe | None = None


def authority_config(network: Network, options: Options, data: Path) -> AuthorityConfig:
    """Read ``options`` (lower-case names, as :attr:`Network.options`). Raises ``ConfigError``."""
    dir_port = _port(options, "dirport")
    if not dir_port:
        raise ConfigError("an authority needs a DirPort")
    address = _ipv4(options, "address") or ("127.0.0.1" if network.testing else "")
    if not address:
        raise ConfigError("an authority needs the IPv4 address that others reach it at (Address)")
    bandwidths = _text(options, "v3bandwidthsfile", "")
    return AuthorityConfig(
        nickname=_text(options, "nickname", "Unnamed"),
        data=Path(_text(options, "datadirectory", str(data))),
        network=network,
        ip=address,
        dir_port=dir_port,
        or_port=_port(options, "orport") or 9001,
        times=_times(options, network.testing),
        flags=_flags(options, network.testing),
        params=_params(options),
        contact=_text(options, "contactinfo", "(none)"),
        bandwidth_file=Path(bandwidths) if bandwidths else None,
        has_ipv6=_flag(options, "authdirhasipv6connectivity", False),
        allow_private_addresses=_flag(options, "dirallowprivateaddresses", network.testing),
    )


def reachability_is_tested(network: Network, options: Options) -> bool:
    """``AuthDirTestReachability``; C tor does not test where it assumes that it is reachable itself."""
    return _flag(options, "authdirtestreachability", not network.testing)


def _times(options: Options, testing: bool) -> VotingTimes:
    default = VotingTimes()
    initial = (150, 20, 20) if testing else (1800, 300, 300)
    times = VotingTimes(
        interval=_seconds(options, "v3authvotinginterval", 300 if testing else default.interval),
        vote_delay=_seconds(options, "v3authvotedelay", 20 if testing else default.vote_delay),
        dist_delay=_seconds(options, "v3authdistdelay", 20 if testing else default.dist_delay),
        intervals_valid=_number(options, "v3authnintervalsvalid", default.intervals_valid),
        initial_interval=_seconds(options, "testingv3authinitialvotinginterval", initial[0]),
        initial_vote_delay=_seconds(options, "testingv3authinitialvotedelay", initial[1]),
        initial_dist_delay=_seconds(options, "testingv3authinitialdistdelay", initial[2]),
        start_offset=_seconds(options, "testingv3authvotingstartoffset", 0),
    )
    if times.vote_delay + times.dist_delay > times.interval // 2:
        raise ConfigError("V3AuthVoteDelay and V3AuthDistDelay must leave half of the voting interval")
    if times.interval < (10 if testing else 300) or 86400 % times.interval:
        raise ConfigError("V3AuthVotingInterval must divide a day, and be 10 s at least (300 s in earnest)")
    if min(times.vote_delay, times.dist_delay) < 2 or times.intervals_valid < 2:
        raise ConfigError("V3AuthVoteDelay, V3AuthDistDelay and V3AuthNIntervalsValid are 2 at least")
    return times


def _flags(options: Options, testing: bool) -> FlagOptions:
    default = FlagOptions()
    flags = replace(
        default,
        testing=testing,
        min_uptime_hsdir=_seconds(options, "minuptimehidservdirectoryv2", default.min_uptime_hsdir),
        fast_guarantee=_bytes(options, "authdirfastguarantee", default.fast_guarantee),
        guard_bandwidth_guarantee=_bytes(
            options, "authdirguardbwguarantee", default.guard_bandwidth_guarantee
        ),
        max_servers_per_address=_number(options, "authdirmaxserversperaddr", 0 if testing else 2),
    )
    if not testing:
        return flags
    return replace(
        flags,
        vote_exit_all=_text(options, "testingdirauthvoteexit", "") == "*",
        vote_guard_all=_text(options, "testingdirauthvoteguard", "") == "*",
        vote_hsdir_all=_text(options, "testingdirauthvotehsdir", "") == "*",
    )


def _params(options: Options) -> dict[str, int]:
    params = {}
    for word in " ".join(options.get("consensusparams", ())).split():
        key, _, value = word.partition("=")
        if not value.lstrip("-").isdigit() or abs(int(value)) >= 1 << 31:
            raise ConfigError(f"ConsensusParams: {word[:60]!r} is not NAME=NUMBER")
        params[key] = int(value)
    return params


def _text(options: Options, name: str, default: str) -> str:
    values = options.get(name, ())
    return values[-1].strip() if values else default


def _ipv4(options: Options, name: str) -> str:
    """The last value that names no IPv6 address: ``Address`` and ``ORPort`` may have one of each kind."""
    values = [value.strip() for value in options.get(name, ()) if value.count(":") < 2]
    return values[-1] if values else ""


def _flag(options: Options, name: str, default: bool) -> bool:
    text = _text(options, name, "1" if default else "0")
    if text not in ("0", "1"):
        raise ConfigError(f"{name} is 0 or 1, not {text!r}")
    return text == "1"


def _number(options: Options, name: str, default: int) -> int:
    text = _text(options, name, str(default))
    if not text.isdigit() or len(text) > 9:
        raise ConfigError(f"{name} is a number, not {text[:30]!r}")
    return int(text)


def _port(options: Options, name: str) -> int:
    word = (_ipv4(options, name) or "0").split(" ")[0].rpartition(":")[2]
    if not word.isdigit() or int(word) > 65535:
        raise ConfigError(f"{name} is a port or ADDRESS:PORT")
    return int(word)


def _seconds(options: Options, name: str, default: int) -> int:
    return _amount(options, name, default, _SECONDS)


def _bytes(options: Options, name: str, default: int) -> int:
    return _amount(options, name, default, _BYTES)


def _amount(options: Options, name: str, default: int, units: Mapping[str, int]) -> int:
    text = _text(options, name, str(default))
    match = _AMOUNT.fullmatch(text)
    unit = match[2].lower() if match else "?"
    factor = units.get(unit, units.get(unit.rstrip("s")))
    if match is None or factor is None:
        raise ConfigError(f"{name} is an amount such as {default!r}, not {text[:30]!r}")
    return int(match[1]) * factor
