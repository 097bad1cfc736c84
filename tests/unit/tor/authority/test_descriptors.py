"""Which uploads an authority takes (dir-spec 2.1), and its key pins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.authority.descriptors import MAX_AGE, MAX_SKEW, Descriptors
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
