"""Which uploads an authority takes (dir-spec 2.1), and its key pins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.authority import descriptors
from pelure.tor.authority.descriptors import MAX_AGE, MAX_SKEW, Descriptors, split_documents
from pelure.tor.directory.router_descriptor import parse_router_descriptor
from unit.tor.authority.conftest import NOW, MadeRelay


def test_an_upload_with_extra_info(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    assert known.upload(relays[0].documents(extra=True), NOW)
    assert known.routers.keys() == known.extra_infos.keys() == {relays[0].rsa_id}
    assert not known.upload(relays[0].documents(), NOW + 60), "not newer"
    assert known.upload(relays[0].documents(NOW + 60), NOW + 60)
    assert not known.extra_infos, "the new descriptor names another extra-info document"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"platform": "Tor 0.4.7.16 on Linux"}, "no longer supported"),
        ({"platform": "pelure 1.0"}, "names no Tor version"),
        ({"ip": "10.1.2.3"}, "private address"),
        ({"ip": "127.0.0.1"}, "private address"),
        ({"ipv6": ("fc00::1", 9001)}, "private address"),
        ({"published": NOW + MAX_SKEW + 1}, "from the future"),
        ({"published": NOW - MAX_AGE - 1}, "has expired"),
    ],
)
def test_what_is_refused(relays: Sequence[MadeRelay], changes: dict[str, object], message: str) -> None:
    known = Descriptors()
    with pytest.raises(DirectoryError, match=message):
        known.upload(relays[0].documents(**changes), NOW)  # type: ignore[arg-type]
    assert not known.routers


def test_the_oldest_version_that_is_taken(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    assert known.upload(relays[0].documents(platform="Tor 0.4.8.0-alpha-dev on Linux"), NOW)


def test_private_addresses_on_a_testing_network(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors(allow_private_addresses=True)
    assert known.upload(relays[0].documents(ip="127.0.0.1"), NOW)


def test_rejected_identities(relays: Sequence[MadeRelay]) -> None:
    for identity in (relays[0].rsa_id, relays[0].keys.ed_id):
        with pytest.raises(DirectoryError, match="rejected"):
            Descriptors(rejected=frozenset({identity})).upload(relays[0].documents(), NOW)


def test_identities_are_pinned_to_each_other(relays: Sequence[MadeRelay], stolen: MadeRelay) -> None:
    known = Descriptors()
    known.upload(relays[0].documents(), NOW)
    with pytest.raises(DirectoryError, match="RSA identity has changed"):
        known.upload(stolen.documents(NOW + 60), NOW + 60)
    known.expire(NOW + 2 * MAX_AGE)
    assert not known.routers
    again = Descriptors()
    again.pins_from_json(known.pins_to_json())
    with pytest.raises(DirectoryError, match="RSA identity has changed"):
        again.upload(stolen.documents(), NOW)


def test_a_relay_keeps_its_ed25519_identity(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    known.upload(relays[0].documents(), NOW)
    renewed = MadeRelay(replace(relays[1].keys, identity=relays[0].keys.identity), 9)
    with pytest.raises(DirectoryError, match="Ed25519 identity has changed"):
        known.upload(renewed.documents(NOW + 60), NOW + 60)


def test_ages_that_are_just_right(relays: Sequence[MadeRelay]) -> None:
    for published in (NOW - MAX_AGE, NOW + MAX_SKEW):
        assert Descriptors().upload(relays[0].documents(published), NOW)
    router = parse_router_descriptor(relays[0].documents())
    assert Descriptors().add_router(replace(router, expires=NOW), NOW)
    with pytest.raises(DirectoryError, match="has expired"):
        Descriptors().add_router(replace(router, expires=NOW - 1), NOW)
    known = Descriptors()
    known.upload(relays[0].documents(extra=True), NOW)
    known.expire(NOW + MAX_AGE)
    assert known.routers and known.extra_infos
    known.expire(NOW + MAX_AGE + 1)
    assert not known.routers and not known.extra_infos


def test_the_number_of_relays_is_bounded(
    relays: Sequence[MadeRelay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "MAX_RELAYS", 2)
    known = Descriptors()
    for relay in relays[:2]:
        known.upload(relay.documents(), NOW)
    with pytest.raises(DirectoryError, match="too many relays"):
        known.upload(relays[2].documents(), NOW)
    assert known.upload(relays[0].documents(NOW + 60), NOW + 60), "who is known may go on"
    monkeypatch.setattr(descriptors, "MAX_UPLOAD", len(relays[0].documents(NOW + 90)))
    assert known.upload(relays[0].documents(NOW + 90), NOW + 90)


def test_relays_that_are_rejected_later_are_forgotten(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    for relay in relays[:2]:
        known.upload(relay.documents(extra=True), NOW)
    assert known.reject(frozenset({relays[0].keys.ed_id}))
    assert known.routers.keys() == known.extra_infos.keys() == {relays[1].rsa_id}
    assert not known.reject(frozenset({relays[0].keys.ed_id}))


def test_extra_info_stays_with_the_descriptor_that_names_it(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    router, extra = split_documents(relays[0].documents(extra=True))
    assert known.upload(router, NOW) and known.upload(extra, NOW) and known.extra_infos
    assert known.add_router(replace(known.routers[relays[0].rsa_id], published=NOW + 60), NOW + 60)
    assert known.extra_infos, "it names the same one"
    assert known.upload(relays[0].documents(NOW + 120), NOW + 120)
    assert not known.upload(extra, NOW + 120) and not known.extra_infos, "another one is named by now"


def test_extra_info_of_another_ed25519_identity(relays: Sequence[MadeRelay]) -> None:
    mixed = MadeRelay(replace(relays[1].keys, identity=relays[0].keys.identity), 9)
    _, extra = split_documents(mixed.documents(extra=True))
    known = Descriptors()
    known.upload(relays[0].documents(), NOW)
    with pytest.raises(DirectoryError, match="another Ed25519 identity"):
        known.upload(extra, NOW)


@pytest.mark.parametrize("damaged", [[], 3, {"zz": "00"}, {"00": 5}])
def test_damaged_pins(damaged: object) -> None:
    with pytest.raises(DirectoryError):
        Descriptors().pins_from_json(damaged)


def test_an_extra_info_document_of_another_relay(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    documents = relays[1].documents(extra=True)
    with pytest.raises(DirectoryError, match="not known"):
        known.upload(documents[documents.index(b"extra-info relay") :], NOW)


def test_stored_documents_can_be_uploaded_again(relays: Sequence[MadeRelay]) -> None:
    known = Descriptors()
    for relay in relays:
        known.upload(relay.documents(extra=True), NOW)
    again = Descriptors()
    assert again.upload(known.texts(), NOW)
    with pytest.raises(DirectoryError, match="too large"):
        again.upload(known.texts() * 20, NOW)
    assert again.routers == known.routers and again.extra_infos == known.extra_infos


def test_one_changed_byte_is_found(relays: Sequence[MadeRelay]) -> None:
    document = bytearray(relays[0].documents())
    document[document.index(b"uptime 3600") + 8] ^= 1
    with pytest.raises(DirectoryError):
        Descriptors().upload(bytes(document), NOW)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_random_uploads(data: bytes) -> None:
    for body in (data, b"router " + data, b"extra-info " + data):
        with pytest.raises(DirectoryError):
            Descriptors().upload(body, NOW)
