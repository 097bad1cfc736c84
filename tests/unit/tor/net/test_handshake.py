"""The link handshake without I/O (tor-spec 4): agreement, every rule of CERTS, AUTHENTICATE, order."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import LinkError, ProtocolError
from pelure.tor.cell.certs import CertType, Ed25519Cert, KeyType, RsaCrossCert
from pelure.tor.cell.commands import CellCommand
from pelure.tor.cell.framing import Cell, CellReader, encode
from pelure.tor.cell.linkspec import RelayIds
from pelure.tor.cell.messages import AuthChallenge, Authenticate, Certs, Netinfo, Versions
from pelure.tor.crypto.keys import Ed25519KeyPair
from pelure.tor.crypto.rsa import RsaKeyPair
from pelure.tor.net.handshake import (
    MAX_CELLS,
    VERSIONS,
    InitiatorHandshake,
    ResponderHandshake,
    Surroundings,
    WrongIdentity,
)
from pelure.tor.net.identity import (
    LinkIdentity,
    check_initiator,
    check_responder,
    make_rsa_certificate,
)

from .support import DAY, make_identity

NOW = 1_800_000_000.0


@cache
def identity(name: str) -> LinkIdentity:
    return make_identity(NOW)


def around(server: LinkIdentity, peer: str = "127.0.0.1") -> Surroundings:
    return Surroundings(
        NOW, os.urandom, peer, server.tls.der, lambda label, context, n: (label + context)[:n]
    )


def pair(
    client: LinkIdentity | None, expected: RelayIds | None = None
) -> tuple[InitiatorHandshake, ResponderHandshake]:
    server = identity("server")
    return InitiatorHandshake(around(server), client, expected), ResponderHandshake(around(server), server)


def run(initiator: InitiatorHandshake, responder: ResponderHandshake, step: int = 1 << 20) -> None:
    """Let the two talk, ``step`` bytes at a time, until nothing is left to say."""
    to_responder, to_initiator = initiator.start(), responder.start()
    while to_responder or to_initiator:
        answer = b""
        while to_responder:
            answer += responder.receive(to_responder[:step])
            to_responder = to_responder[step:]
        to_initiator += answer
        while to_initiator:
            to_responder += initiator.receive(to_initiator[:step])
            to_initiator = to_initiator[step:]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_client_stays_anonymous(step: int) -> None:
    initiator, responder = pair(None)
    run(initiator, responder, step)
    server = identity("server")
    assert initiator.done and responder.done and initiator.version == responder.version == 5
    assert (initiator.peer.rsa_id, initiator.peer.ed_id) == (server.rsa_public.identity, server.ed_id)
    assert initiator.peer.canonical and initiator.peer.clock_skew == 0.0
    assert responder.peer.rsa_id is None and responder.peer.clock_skew is None
    assert initiator.peer.seen_as == "127.0.0.1"


@pytest.mark.parametrize("step", [1, 1 << 20])
def test_a_relay_proves_itself(step: int) -> None:
    client = identity("client")
    initiator, responder = pair(client)
    run(initiator, responder, step)
    assert initiator.done and responder.done
    assert (responder.peer.rsa_id, responder.peer.ed_id) == (client.rsa_public.identity, client.ed_id)
    assert responder.peer.canonical


def test_another_relay_than_expected_is_refused() -> None:
    server = identity("server")
    for wrong in (
        RelayIds(bytes(20), None),
        RelayIds(server.rsa_public.identity, bytes(32)),
        RelayIds(bytes(20), server.ed_id),
    ):
        with pytest.raises(WrongIdentity):
            run(*pair(None, wrong))
    run(*pair(None, RelayIds(server.rsa_public.identity, None)))


def test_versions_are_negotiated() -> None:
    for offered, agreed in (((3, 4, 5, 6), 5), ((4,), 4), ((1, 4), 4), ((2, 3), 3)):
        _, responder = pair(None)
        responder.receive(encode(Versions(offered).cell(), wide=False))
        assert responder.version == agreed
    for offered in ((1, 2), (6, 7), ()):
        _, responder = pair(None)
        with pytest.raises(ProtocolError):
            responder.receive(encode(Versions(offered).cell(), wide=False))


def spoil(certs: Certs, kind: CertType, data: bytes | None) -> Certs:
    kept = tuple((one, body) for one, body in certs.certificates if one != kind)
    return Certs(kept if data is None else (*kept, (kind, data)))


def test_every_certificate_is_needed_and_checked() -> None:
    server, client = identity("server"), identity("client")
    other = identity("other")
    check_responder(server.responder_certs, server.tls.der, NOW)
    check_initiator(client.initiator_certs, NOW)
    for kind in (1, 3):  # the old RSA link certificates are not needed
        assert server.responder_certs.get(kind) is None
    for kind, foreign in other.responder_certs.certificates:
        for data in (None, foreign, b"", os.urandom(100), foreign[:-1] + bytes([foreign[-1] ^ 1])):
            with pytest.raises(ProtocolError):
                check_responder(spoil(server.responder_certs, CertType(kind), data), server.tls.der, NOW)
    for kind, foreign in other.initiator_certs.certificates:
        for data in (None, foreign, b""):
            with pytest.raises(ProtocolError):
                check_initiator(spoil(client.initiator_certs, CertType(kind), data), NOW)
    with pytest.raises(ProtocolError):
        check_responder(server.responder_certs, other.tls.der, NOW)


@pytest.mark.parametrize("days", [40, 200, 400])
def test_expired_certificates_are_refused(days: float) -> None:
    with pytest.raises(ProtocolError):
        check_responder(identity("server").responder_certs, identity("server").tls.der, NOW + days * DAY)


def test_certificates_of_the_wrong_kind_are_refused() -> None:
    """A certificate made for one purpose must not serve another."""
    rsa_key, ed_key = RsaKeyPair.generate(1024), Ed25519KeyPair.generate(os.urandom)
    signing = Ed25519KeyPair.generate(os.urandom)
    tls = identity("server").tls

    def certs(**changes: bytes) -> Certs:
        signing_cert = Ed25519Cert.create(CertType.IDENTITY_V_SIGNING, signing.public, ed_key, NOW + DAY)
        link_cert = Ed25519Cert.create(
            CertType.SIGNING_V_TLS_CERT, tls.digest, signing, NOW + DAY, key_type=KeyType.X509_SHA256
        )
        parts = {
            "id": make_rsa_certificate(rsa_key, os.urandom, NOW),
            "signing": signing_cert.encode(),
            "link": link_cert.encode(),
            "cross": RsaCrossCert.create(ed_key.public, rsa_key, NOW + DAY).encode(),
        } | changes
        kinds = (
            CertType.RSA_ID_X509,
            CertType.IDENTITY_V_SIGNING,
            CertType.SIGNING_V_TLS_CERT,
            CertType.RSA_ID_V_IDENTITY,
        )
        return Certs(tuple(zip(kinds, parts.values(), strict=True)))

    check_responder(certs(), tls.der, NOW)
    big = RsaKeyPair.generate(2048)
    unsigned_link = Ed25519Cert.create(CertType.SIGNING_V_TLS_CERT, tls.digest, ed_key, NOW + DAY)
    auth_as_link = Ed25519Cert.create(CertType.SIGNING_V_LINK_AUTH, tls.digest, signing, NOW + DAY)
    no_signer = Ed25519Cert.create(
        CertType.IDENTITY_V_SIGNING, signing.public, ed_key, NOW + DAY, include_signer=False
    )
    foreign_id = make_rsa_certificate(RsaKeyPair.generate(1024), os.urandom, NOW)
    for changes in (
        {"id": make_rsa_certificate(big, os.urandom, NOW)},
        {"id": foreign_id},
        {"id": make_rsa_certificate(rsa_key, os.urandom, NOW - 400 * DAY)},
        {"id": make_rsa_certificate(rsa_key, os.urandom, NOW + 60 * DAY)},
        {"link": unsigned_link.encode()},
        {"link": auth_as_link.encode()},
        {"signing": no_signer.encode()},
        {"cross": RsaCrossCert.create(bytes(32), rsa_key, NOW + DAY).encode()},
        {"cross": RsaCrossCert.create(ed_key.public, rsa_key, NOW - DAY).encode()},
    ):
        with pytest.raises(ProtocolError):
            check_responder(certs(**changes), tls.der, NOW)


def id_certificate(public: Any, signer: Any, algorithm: Any, days: float = 0) -> bytes:
    """A certificate of ``public`` that ``signer`` signed; it begins in ``days`` and is valid for 365."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")])
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC) + datetime.timedelta(days=days)
    end = start + datetime.timedelta(days=365)
    made = x509.CertificateBuilder(name, name, public, 7, start, end).sign(signer, algorithm)
    return made.public_bytes(serialization.Encoding.DER)


def with_rsa(key: RsaKeyPair, certificate: bytes) -> Certs:
    """The server's CERTS, with another RSA identity that certifies its Ed25519 one."""
    server = identity("server")
    cross = RsaCrossCert.create(server.ed_id, key, NOW + DAY).encode()
    certs = spoil(server.responder_certs, CertType.RSA_ID_V_IDENTITY, cross)
    return spoil(certs, CertType.RSA_ID_X509, certificate)


def test_an_rsa_identity_certificate_is_of_1024_bits_and_signed_by_itself() -> None:
    key, other, big = (RsaKeyPair.generate(bits) for bits in (1024, 1024, 1536))
    sha256, tls = hashes.SHA256(), identity("server").tls.der
    good = with_rsa(key, id_certificate(key.public.key, key.key, sha256))
    assert check_responder(good, tls, NOW).rsa_public == key.public
    with pytest.raises(ProtocolError, match="1024-bit"):
        check_responder(with_rsa(big, id_certificate(big.public.key, big.key, sha256)), tls, NOW)
    with pytest.raises(ProtocolError, match="by its own key"):
        check_responder(with_rsa(key, id_certificate(key.public.key, other.key, sha256)), tls, NOW)
    edwards, curve = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    for private, algorithm in ((edwards, None), (curve, sha256)):
        certificate = id_certificate(private.public_key(), private, algorithm)
        with pytest.raises(ProtocolError, match="1024-bit"):
            check_responder(with_rsa(key, certificate), tls, NOW)
    with pytest.raises(ProtocolError):  # of Ed25519 by RSA, and the other way round
        check_responder(with_rsa(key, id_certificate(edwards.public_key(), key.key, sha256)), tls, NOW)
    with pytest.raises(ProtocolError):
        check_responder(with_rsa(key, id_certificate(key.public.key, edwards, None)), tls, NOW)


@pytest.mark.parametrize(("days", "good"), [(30, True), (30.01, False), (-367, True), (-367.01, False)])
def test_the_dates_of_an_rsa_identity_certificate_are_taken_loosely(days: float, good: bool) -> None:
    """Clocks differ: 30 days before it begins, two days after it has ended."""
    key = RsaKeyPair.generate(1024)
    certs = with_rsa(key, id_certificate(key.public.key, key.key, hashes.SHA256(), days))
    if good:
        check_responder(certs, identity("server").tls.der, NOW)
    else:
        with pytest.raises(ProtocolError, match="not valid today"):
            check_responder(certs, identity("server").tls.der, NOW)


def test_authenticate_of_another_link_is_refused() -> None:
    client = identity("client")
    initiator, responder = pair(client)
    first = initiator.receive(responder.receive(initiator.start()))
    elsewhere = ResponderHandshake(
        replace(around(identity("server")), export=lambda label, context, n: bytes(n)), identity("server")
    )
    elsewhere.receive(encode(Versions((4, 5)).cell(), wide=False))
    with pytest.raises(ProtocolError):
        elsewhere.receive(first)
    assert not elsewhere.done and elsewhere.peer.rsa_id is None


def test_a_signature_by_somebody_else_is_refused() -> None:
    client, thief = identity("client"), identity("other")
    impostor = replace(thief, initiator_certs=client.initiator_certs, rsa_public=client.rsa_public)
    initiator, responder = pair(replace(impostor, ed_id=client.ed_id))
    with pytest.raises(ProtocolError):
        run(initiator, responder)
    assert responder.peer.rsa_id is None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("none", None),
        ("method", "method"),
        ("short", "too short"),
        ("other", "another link"),
        ("sign", "verify"),
    ],
)
def test_what_authenticate_has_to_be(damage: str, says: str | None) -> None:
    client = identity("client")
    initiator, responder = pair(client)
    said = initiator.receive(responder.receive(initiator.start()))
    certs, authenticate, netinfo = (cell for cell in CellReader().feed(said) if isinstance(cell, Cell))
    message = Authenticate.decode(authenticate.body)
    signed, signature = message.authentication[:-64], message.authentication[-64:]
    if damage == "method":
        message = Authenticate(1, message.authentication)
    elif damage == "short":  # all that is compared, and no random bytes
        message = Authenticate(3, signed[:-24] + client.auth_key.sign(signed[:-24]))
    elif damage == "other":
        changed = signed[:-30] + bytes([signed[-30] ^ 1]) + signed[-29:]
        message = Authenticate(3, changed + client.auth_key.sign(changed))
    elif damage == "sign":
        message = Authenticate(3, signed + signature[:-1] + bytes([signature[-1] ^ 1]))
    responder.receive(encode(certs))
    if says is None:
        responder.receive(encode(message.cell()) + encode(netinfo))
        assert responder.peer.ed_id == client.ed_id
    else:
        with pytest.raises(ProtocolError, match=says):
            responder.receive(encode(message.cell()))


def test_a_second_challenge_is_not_answered() -> None:
    initiator, responder = pair(identity("client"))
    answer = responder.receive(initiator.start())
    netinfo_at = len(answer) - 514
    initiator.receive(answer[:netinfo_at])
    with pytest.raises(ProtocolError, match="second"):
        initiator.receive(encode(AuthChallenge(bytes(32)).cell()))


def test_cells_out_of_turn_end_the_handshake() -> None:
    server = identity("server")
    versions = encode(Versions((4, 5)).cell(), wide=False)
    netinfo = encode(Netinfo(0, "127.0.0.1").cell())
    certs = encode(server.responder_certs.cell())
    to_responder = [
        encode(Authenticate(3, bytes(300)).cell()),
        encode(AuthChallenge(bytes(32)).cell()),
        encode(Cell(7, CellCommand.NETINFO, b"")),
        encode(Cell(0, CellCommand.RELAY, bytes(509))),
        encode(Cell(0, CellCommand.CREATE2, bytes(509))),
        encode(identity("client").initiator_certs.cell()) * 2,
    ]
    for data in to_responder:
        _, responder = pair(None)
        responder.receive(versions)
        with pytest.raises(ProtocolError):
            responder.receive(data)
    to_initiator = [netinfo, encode(AuthChallenge(bytes(32)).cell()), certs + certs]
    for data in to_initiator:
        initiator, _ = pair(None)
        initiator.receive(versions)
        with pytest.raises(ProtocolError):
            initiator.receive(data)


def test_padding_may_come_at_any_time_and_is_hashed() -> None:
    initiator, responder = pair(identity("client"))
    answer = responder.receive(initiator.start())
    padding = encode(Cell(0, CellCommand.VPADDING, b"x" * 30))
    versions_end = len(encode(Versions(VERSIONS).cell(), wide=False))
    # The responder did not hash what it never sent: the two logs differ, so authentication must fail.
    said = initiator.receive(answer[:versions_end] + padding + answer[versions_end:])
    with pytest.raises(ProtocolError):
        responder.receive(said)
    client, server = pair(None)
    answer = server.receive(client.start())
    client.receive(answer + padding)
    assert client.done


def test_versions_count_once() -> None:
    """Any after the first MUST be ignored (tor-spec 4.1)."""
    initiator, responder = pair(None)
    answer = responder.receive(initiator.start())
    versions_end = len(encode(Versions(VERSIONS).cell(), wide=False))
    again = encode(Versions((3,)).cell())
    initiator.receive(answer[:versions_end] + again + answer[versions_end:] + again)
    assert initiator.done and initiator.version == max(VERSIONS)


def test_padding_without_end_ends_the_handshake() -> None:
    _, responder = pair(None)
    responder.receive(encode(Versions(VERSIONS).cell(), wide=False))
    padding = encode(Cell(0, CellCommand.VPADDING, b""))
    responder.receive(padding * 100)
    with pytest.raises(ProtocolError, match="too much"):
        responder.receive(padding * MAX_CELLS)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=600), st.booleans(), st.booleans())
def test_random_bytes_raise_only_protocol_errors(data: bytes, wide: bool, to_initiator: bool) -> None:
    initiator, responder = pair(None)
    victim = initiator if to_initiator else responder
    victim.start()
    try:
        if wide:
            victim.receive(encode(Versions((5,)).cell(), wide=False))
        victim.receive(data)
    except (ProtocolError, LinkError):
        pass


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=200)), max_size=6))
def test_random_certificates_raise_only_protocol_errors(pairs: list[tuple[int, bytes]]) -> None:
    certs = Certs(tuple(dict(pairs).items()))
    for check in (lambda: check_responder(certs, b"", NOW), lambda: check_initiator(certs, NOW)):
        with pytest.raises(ProtocolError):
            check()
