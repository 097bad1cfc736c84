"""Router descriptors, extra-info, microdescriptors (dir-spec 2.1, 3.3): published, built, damaged ones."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.directory.exit_policy import PortPolicy
from pelure.tor.directory.extra_info import parse_extra_info
from pelure.tor.directory.microdescriptor import (
    build_microdescriptor,
    microdescriptors_by_method,
    parse_microdescriptor,
    split_microdescriptors,
)
from pelure.tor.directory.router_descriptor import parse_router_descriptor, split_router_descriptors
from pelure.tor.directory.router_descriptor_build import (
    DescriptorKeys,
    build_extra_info,
    build_router_descriptor,
)
from pelure.tor.directory.tokenizer import split_at
from pelure.tor.directory.vote import parse_vote
from unit.tor.directory.support import (
    NOW,
    damaged,
    descriptor_keys,
    facts,
    relay_identity,
    seeded,
    signatures_unchecked,
    survives,
    vector,
    vector_votes,
)

PUBLISHED = list(split_router_descriptors(vector("cached-descriptors.new")))
BUILT = build_router_descriptor(facts(1), descriptor_keys(1))
MICRODESCRIPTOR = build_microdescriptor(parse_router_descriptor(BUILT), 35)


def test_the_published_descriptors_and_what_was_voted_on_them() -> None:
    entries = {entry.descriptor_digest: entry for entry in parse_vote(vector_votes()[0]).entries}
    parsed = [parse_router_descriptor(document) for document in PUBLISHED]
    assert len(parsed) == 20
    voted = [one for one in parsed if one.digest in entries]
    assert len(voted) == 7
    for one in voted:
        entry = entries[one.digest]
        assert (one.nickname, one.rsa_id, one.ed_id) == (entry.nickname, entry.rsa_id, entry.ed_id)
        assert (one.ip, one.orport, one.dirport) == (entry.ip, entry.orport, entry.dirport)
        assert one.advertised_bandwidth // 1000 == entry.bandwidth
        assert str(one.exit_policy.summary()) == entry.exit_summary
        assert str(one.protocols) == entry.protocols
        for methods, text in microdescriptors_by_method(one, (32, 33, 34, 35)):
            assert methods == [32, 33, 34, 35]
            assert entry.microdesc_digest(methods[-1]) == hashlib.sha256(text).digest()


def test_the_published_extra_infos_belong_to_the_descriptors() -> None:
    infos = {
        one.digest: one
        for one in map(
            parse_extra_info,
            split_at(vector("cached-extrainfo.new"), re.compile(rb"^extra-info ", re.MULTILINE)),
        )
    }
    for descriptor in map(parse_router_descriptor, PUBLISHED):
        assert descriptor.extra_info_digest is not None
        info = infos[descriptor.extra_info_digest]
        assert parse_extra_info(info.text, descriptor.rsa_key).rsa_id == descriptor.rsa_id


def test_the_published_microdescriptors() -> None:
    parsed = [parse_microdescriptor(text) for text in split_microdescriptors(vector("cached-microdescs.new"))]
    assert len(parsed) == 7
    assert all(one.ed_id and len(one.ntor_key) == 32 for one in parsed)
    exits = [one for one in parsed if one.exit_policy.allows_some]
    assert len(exits) == 2


def test_a_built_descriptor_says_what_it_was_told() -> None:
    told = facts(
        3,
        ipv6=("2001:db8::3", 9003),
        family=("$" + "A" * 40, "someone"),
        contact="M\u00e9 \u20ac <me@example.org>",
        uptime=77,
        dirport=9030,
        exit_policy=("reject 10.0.0.0/8:*", "accept *:80-81", "reject *:*"),
        ipv6_policy=PortPolicy.parse("accept 443"),
    )
    family_key = Ed25519KeyPair.generate(seeded(9))
    keys = descriptor_keys(3)
    keys = DescriptorKeys(
        keys.identity, keys.ed_id, keys.signing, keys.signing_cert, keys.ntor_public, keys.ntor_secret,
        keys.tap, (family_key,),
    )  # fmt: skip
    extra_info = build_extra_info("relay3", NOW, keys, ["dirreq-stats-end 2027-01-15 08:00:00 (86400 s)"])
    read = parse_router_descriptor(build_router_descriptor(told, keys, extra_info))
    assert (read.nickname, read.ip, read.orport, read.dirport) == ("relay3", told.ip, told.orport, 9030)
    assert read.ipv6 == told.ipv6
    assert read.family == told.family
    assert len(read.family_ids) == 1 and read.family_ids[0].startswith("ed25519:")
    assert (read.uptime, read.bandwidth) == (77, told.bandwidth)
    assert read.contact.encode("latin-1").decode() == told.contact, "descriptors are UTF-8"
    assert read.exit_policy.lines() == list(told.exit_policy)
    assert (read.ed_id, read.ntor_key, read.rsa_id) == (
        keys.ed_id,
        keys.ntor_public,
        keys.identity.public.identity,
    )
    assert read.tap_key is not None and read.hidden_service_dir and read.tunnelled_dir_server
    assert read.published == NOW and read.expires > NOW
    info = parse_extra_info(extra_info, read.rsa_key)
    assert read.extra_info_digest == info.digest and info.ed_id == keys.ed_id
    by_method = microdescriptors_by_method(read, (34, 35))
    assert [methods for methods, _ in by_method] == [[34], [35]]
    microdescriptor = parse_microdescriptor(by_method[1][1])
    assert microdescriptor.family_ids == set(read.family_ids)
    assert f"${read.rsa_id.hex().upper()}" in microdescriptor.family
    assert str(microdescriptor.exit_policy) == "accept 80-81"
    assert str(microdescriptor.exit_policy6) == "accept 443"


def test_a_tap_key_is_not_needed() -> None:
    document = build_router_descriptor(facts(2), descriptor_keys(2, tap=False))
    assert b"onion-key-crosscert\n" not in document.replace(b"ntor-onion-key-crosscert", b"")
    read = parse_router_descriptor(document)
    assert read.tap_key is None
    assert build_microdescriptor(read, 35).startswith(b"onion-key\nntor-onion-key ")
    assert parse_microdescriptor(build_microdescriptor(read, 35)).ed_id == read.ed_id


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"bandwidth ", b"bandwidth 1 "),
        (b"router relay1 ", b"router relay2 "),
        (b"published 20", b"published 19"),
        (b"reject *:*\n", b""),
        (b"ntor-onion-key-crosscert 0", b"ntor-onion-key-crosscert 1"),
        (b"ntor-onion-key-crosscert 1", b"ntor-onion-key-crosscert 0"),
        (b"proto ", b"protos "),
    ],
)
def test_a_changed_descriptor_is_refused(old: bytes, new: bytes) -> None:
    if old in BUILT:
        with pytest.raises(DirectoryError):
            parse_router_descriptor(BUILT.replace(old, new, 1))


def test_keys_of_two_relays_do_not_mix() -> None:
    one, other = descriptor_keys(1), descriptor_keys(2)
    mixed = DescriptorKeys(
        one.identity, one.ed_id, one.signing, one.signing_cert, other.ntor_public, one.ntor_secret, one.tap
    )
    with pytest.raises(DirectoryError, match="ntor cross-certificate"):
        parse_router_descriptor(build_router_descriptor(facts(1), mixed))
    mixed = DescriptorKeys(
        one.identity, one.ed_id, other.signing, one.signing_cert, one.ntor_public, one.ntor_secret, one.tap
    )
    with pytest.raises(DirectoryError, match="Ed25519 signature"):
        parse_router_descriptor(build_router_descriptor(facts(1), mixed))
    info = build_extra_info("relay1", NOW, one)
    with pytest.raises(DirectoryError, match="another relay"):
        parse_extra_info(info, relay_identity(2).public)


def test_several_descriptors_in_one_document() -> None:
    both = b"@purpose general\n" + BUILT + b"\n" + PUBLISHED[0]
    assert list(split_router_descriptors(both)) == [BUILT, PUBLISHED[0]]
    assert list(split_router_descriptors(b"nothing")) == []
    twice = b"@last-listed 2000-01-01 00:00:00\n" + MICRODESCRIPTOR + b"@last-listed 2000\n" + MICRODESCRIPTOR
    assert list(split_microdescriptors(twice)) == [MICRODESCRIPTOR, MICRODESCRIPTOR]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    survives(parse_router_descriptor, data)
    survives(parse_microdescriptor, data)
    survives(parse_microdescriptor, b"onion-key\n" + data)
    survives(parse_extra_info, data)


@settings(deadline=None, max_examples=100)
@given(damaged(BUILT))
def test_damaged_descriptors(document: bytes) -> None:
    survives(parse_router_descriptor, document)
    with signatures_unchecked():
        survives(parse_router_descriptor, document)


@settings(deadline=None, max_examples=100)
@given(damaged(MICRODESCRIPTOR))
def test_damaged_microdescriptors(document: bytes) -> None:
    survives(parse_microdescriptor, document)


@settings(deadline=None, max_examples=50)
@given(damaged(build_extra_info("relay1", NOW, descriptor_keys(1))))
def test_damaged_extra_infos(document: bytes) -> None:
    survives(parse_extra_info, document)
