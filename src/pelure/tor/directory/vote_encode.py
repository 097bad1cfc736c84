"""Writing and signing a status vote (dir-spec section 3.4.1)."""

from __future__ import annotations

import hashlib

from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.directory.consensus import SharedRandomValue
from pelure.tor.directory.tokenizer import encode_base64, encode_object, format_time
from pelure.tor.directory.vote import NO_ED25519_ID, PROTOCOL_LISTS, Vote, VoteEntry


def encode_vote(vote: Vote, signing_key: RsaKeyPair) -> bytes:
    """The text of ``vote``, signed by ``signing_key``, which ``vote.certificate`` must certify."""
    body = "".join([*_header_lines(vote), *map(_format_entry, vote.entries), "directory-footer\n"])
    signed = (body + "directory-signature ").encode("latin-1")
    signature = signing_key.sign(hashlib.sha1(signed).digest())
    names = f"{vote.identity.hex().upper()} {signing_key.public.identity.hex().upper()}\n"
    return signed + (names + encode_object("SIGNATURE", signature)).encode()


def _header_lines(vote: Vote) -> list[str]:
    source = vote.source
    lines = [
        "network-status-version 3",
        "vote-status vote",
        "consensus-methods " + " ".join(map(str, vote.methods)),
        "published " + format_time(vote.published),
        "valid-after " + format_time(vote.valid_after),
        "fresh-until " + format_time(vote.fresh_until),
        "valid-until " + format_time(vote.valid_until),
        "voting-delay {} {}".format(*vote.voting_delay),
    ]
    if vote.client_versions is not None:
        lines.append("client-versions " + vote.client_versions)
    if vote.server_versions is not None:
        lines.append("server-versions " + vote.server_versions)
    lines += [f"package {package}" for package in vote.packages]
    lines += [f"{key} {vote.protocol_lists[key]}" for key in PROTOCOL_LISTS if key in vote.protocol_lists]
    lines += [
        "known-flags " + " ".join(vote.known_flags),
        "flag-thresholds " + vote.flag_thresholds,
        "params " + " ".join(sorted(f"{key}={value}" for key, value in vote.params.items())),
        f"dir-source {source.nickname} {source.identity.hex().upper()} {source.hostname} {source.ip} "
        f"{source.dirport} {source.orport}",
        "contact " + source.contact,
    ]
    if vote.legacy_identity is not None:
        lines.append("legacy-dir-key " + vote.legacy_identity.hex().upper())
    lines += _shared_random_lines(vote)
    return ["".join(f"{line}\n" for line in lines), vote.certificate.text.decode("latin-1")]


def _shared_random_lines(vote: Vote) -> list[str]:
    lines = ["shared-rand-participate"] if vote.shared_rand_participates else []
    for commit in vote.commits:
        text = (
            f"shared-rand-commit 1 sha3-256 {commit.identity.hex().upper()} {commit.commit} {commit.reveal}"
        )
        lines.append(text.rstrip())
    if vote.shared_rand_previous is not None:
        lines.append("shared-rand-previous-value " + format_shared_random(vote.shared_rand_previous))
    if vote.shared_rand_current is not None:
        lines.append("shared-rand-current-value " + format_shared_random(vote.shared_rand_current))
    return lines


def format_shared_random(value: SharedRandomValue) -> str:
    """The arguments of a ``shared-rand-*-value`` line."""
    return f"{value.reveals} {encode_padded(value.value)}"


def encode_padded(data: bytes) -> str:
    """Base64 with padding, as shared random values are written."""
    text = encode_base64(data)
    return text + "=" * (-len(text) % 4)


def _format_entry(entry: VoteEntry) -> str:
    lines = [
        f"r {entry.nickname} {encode_base64(entry.rsa_id)} {encode_base64(entry.descriptor_digest)} "
        f"{format_time(entry.published)} {entry.ip} {entry.orport} {entry.dirport}"
    ]
    if entry.ipv6 is not None:
        lines.append("a [{}]:{}".format(*entry.ipv6))
    lines.append(" ".join(["s", *sorted(entry.flags)]))
    for keyword, text in (("v", entry.version), ("pr", entry.protocols)):
        if text is not None:
            lines.append(f"{keyword} {text}")
    if entry.bandwidth is not None:
        measured = "" if entry.measured is None else f" Measured={entry.measured}"
        lines.append(f"w Bandwidth={entry.bandwidth}{measured}")
    if entry.exit_summary is not None:
        lines.append("p " + entry.exit_summary)
    if entry.ed_id is not None:
        lines.append("id ed25519 " + ("none" if entry.ed_id == NO_ED25519_ID else encode_base64(entry.ed_id)))
    if entry.stats:
        lines.append("stats " + entry.stats)
    lines += [f"m {line}" for line in entry.microdescs]
    return "".join(f"{line}\n" for line in lines)
