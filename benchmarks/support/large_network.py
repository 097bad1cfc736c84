"""The directory of a made-up network as large as the public one, signed by an authority of its own.

What is made up is like the public network's in what costs memory and time: flags, bandwidths, versions, exit
policies, and families of up to hundreds of relays, of which each lists all. Addresses belong to nobody one
would reach: whoever reads this directory may not connect.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.key_certificate import build_key_certificate
from pelure.tor.directory.tokenizer import encode_base64, encode_object, format_time

FAMILY_SIZES = (400, 300, 200, 150, *[100] * 2, *[50] * 7, *[20] * 30, *[8] * 100, *[3] * 300)
VERSIONS = [f"Tor 0.4.8.{patch}" for patch in range(8, 22)] + [f"Tor 0.4.9.{patch}" for patch in range(1, 12)]
PROTOCOLS = (
    "Conflux=1 Cons=1-2 Desc=1-4 DirCache=2 FlowCtrl=1-2 HSDir=2 HSIntro=4-5 HSRend=1-2 Link=1-5 "
    "LinkAuth=3 Microdesc=1-3 Padding=2 Relay=1-6"
)
POLICIES = (
    "accept 20-23,43,53,79-81,88,110,143,194,220,389,443,464,531,543-544,554,563,636,706,749,853,873,902-904,"
    "981,989-995,1194,1220,1293,1500,1533,1677,1723,1755,1863,2082-2083,5050,5190,5222-5223,6660-6669,8443",
    "reject 25,119,135-139,445,563,1214,4661-4666,6346-6429,6699,6881-6999",
    "accept 80,443",
)
FLAGS = (("Exit", 0.3), ("Fast", 0.85), ("Guard", 0.55), ("HSDir", 0.6), ("Stable", 0.8))
HEAD = """network-status-version 3 microdesc
vote-status consensus
consensus-method 34
valid-after {valid_after}
fresh-until {fresh_until}
valid-until {valid_until}
voting-delay 300 300
known-flags BadExit Exit Fast Guard HSDir Running Stable V2Dir Valid
recommended-client-protocols Cons=2 Desc=2 HSDir=2 HSIntro=4 HSRend=2 Link=4-5 Microdesc=2 Relay=2-4
required-client-protocols Cons=2 Desc=2 Link=4 Microdesc=2 Relay=2-4
dir-source auth0 {identity} 127.0.0.1 127.0.0.1 7001 7002
contact nobody
vote-digest 0000000000000000000000000000000000000000
"""
FOOT = (
    "directory-footer\nbandwidth-weights Wbd=0 Wbe=0 Wbg=4131 Wbm=10000 Wdb=10000 Web=10000 Wed=10000 "
    "Wee=10000 Weg=10000 Wem=10000 Wgb=10000 Wgd=0 Wgg=5869 Wgm=5869 Wmb=10000 Wmd=0 Wme=0 Wmg=4131 Wmm=10000"
    "\ndirectory-signature "
)


def write_directory(relays: int, *folders: Path) -> str:
    """Put a directory of ``relays``, valid now, into each folder; returns its authority's torrc line."""
    identity, signing = RsaKeyPair.generate(3072), RsaKeyPair.generate(2048)
    now, name = int(time.time()), identity.public.identity.hex().upper()
    entries, microdescriptors = zip(*_relays(Random(relays), relays), strict=True)
    times = {"valid_after": now - 600, "fresh_until": now + 3000, "valid_until": now + 10200}
    head = HEAD.format(identity=name, **{key: format_time(value) for key, value in times.items()})
    signed = head + "".join(entries) + FOOT
    signature = signing.sign(hashlib.sha256(signed.encode()).digest())
    consensus = f"{signed}sha256 {name} {signing.public.identity.hex().upper()}\n"
    # C tor forgets microdescriptors that it doesn't know to have been listed lately.
    listed = f"@last-listed {format_time(now - 600)}\n".encode()
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True)
        certificate = build_key_certificate(identity, signing, now - 86400, now + 86400)
        (folder / "cached-certs").write_bytes(certificate)
        (folder / "cached-microdesc-consensus").write_text(consensus + encode_object("SIGNATURE", signature))
        (folder / "cached-microdescs").write_bytes(b"".join(listed + one for one in microdescriptors))
    return f"DirAuthority auth0 orport=7002 v3ident={name} 127.0.0.1:7001 {'A' * 40}\n"


def _relays(random: Random, count: int) -> Iterator[tuple[str, bytes]]:
    """The consensus entry and the microdescriptor of each relay, ascending by identity."""
    identities = sorted(random.randbytes(20) for _ in range(count))
    families = _families(random, identities)
    for identity in identities:
        flags = [flag for flag, share in FLAGS if random.random() < share]
        lines = ["onion-key", f"ntor-onion-key {encode_base64(random.randbytes(32))}"]
        if identity in families:
            lines.append(f"family {families[identity]}")
        if "Exit" in flags:
            lines.append(f"p {random.choice(POLICIES)}")
        lines.append(f"id ed25519 {encode_base64(random.randbytes(32))}")
        microdescriptor = "".join(f"{line}\n" for line in lines).encode()
        digest = encode_base64(hashlib.sha256(microdescriptor).digest())
        address = ".".join(str(random.randrange(1, 255)) for _ in range(3))
        nickname = base64.b32encode(random.randbytes(8)).decode().rstrip("=")
        weight = int(random.lognormvariate(8, 1.8)) + 1
        entry = (
            f"r {nickname} {encode_base64(identity)} 2038-01-01 00:00:00 240.{address} 9001 0\n"
            f"m {digest}\ns {' '.join(sorted([*flags, 'Running', 'V2Dir', 'Valid']))}\n"
            f"v {random.choice(VERSIONS)}\npr {PROTOCOLS}\nw Bandwidth={weight}\n"
        )
        yield entry, microdescriptor


def _families(random: Random, identities: list[bytes]) -> dict[bytes, str]:
    """The ``family`` line of each relay that has one."""
    left = random.sample(identities, len(identities))
    families: dict[bytes, str] = {}
    for size in FAMILY_SIZES:
        members, left = left[:size], left[size:]
        line = " ".join(sorted(f"${member.hex().upper()}" for member in members))
        families |= dict.fromkeys(members, line)
    return families
