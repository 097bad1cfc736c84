"""Extension lists and link specifiers (tor-spec 5.1.2, 5.1.4.1; proposals 305 and 324)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import ProtocolError
from pelure.tor.cell import extensions as e
from pelure.tor.cell import linkspec as ls

RSA, ED = bytes(range(20)), bytes(range(32))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=255)), max_size=10))
def test_extensions_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    extensions = tuple(e.Extension(kind, body) for kind, body in pairs)
    assert e.decode_extensions(e.encode_extensions(extensions)) == extensions


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_protocol_errors(data: bytes) -> None:
    for decode, encode in (
        (e.decode_extensions, e.encode_extensions),
        (ls.decode_specifiers, ls.encode_specifiers),
    ):
        try:
            decoded = decode(data)
        except ProtocolError:
            continue
        assert encode(decoded) == (data or b"\0")  # type: ignore[arg-type]
    try:
        parameters = e.DosParameters.decode(data)
    except ProtocolError:
        return
    assert e.DosParameters.decode(parameters.extension().body) == parameters


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(ProtocolError):
        e.encode_extensions([e.Extension(1)] * 256)
    with pytest.raises(ProtocolError):
        e.encode_extensions([e.Extension(1, bytes(256))])
    with pytest.raises(ProtocolError):
        ls.encode_specifiers([ls.LinkSpecifier.rsa(RSA)] * 256)
    with pytest.raises(ProtocolError):
        e.decode_extensions(b"\0x")


def test_congestion_control_negotiation() -> None:
    asked = e.decode_extensions(e.encode_extensions([e.cc_request()]))
    assert e.wants_congestion_control(asked) and not e.wants_congestion_control(())
    answer = e.decode_extensions(e.encode_extensions([e.Extension(7), e.cc_response(31)]))
    assert e.parse_cc_response(answer) == 31
    assert e.parse_cc_response(()) is None
    for body in (b"", b"\0", b"\xff", b"\1\1"):
        with pytest.raises(ProtocolError):
            e.parse_cc_response([e.Extension(2, body)])


def test_the_first_extension_of_a_type_counts() -> None:
    assert e.find_extension([e.Extension(1, b"a"), e.Extension(1, b"b")], 1) == b"a"


def test_dos_parameters() -> None:
    extension = e.DosParameters(25, 200).extension()
    assert extension.body.hex() == "02010000000000000019" + "0200000000000000c8"
    assert e.DosParameters.decode(extension.body) == e.DosParameters(25, 200)
    assert e.DosParameters.decode(b"\0") == e.DosParameters()


def test_link_specifiers() -> None:
    specifiers = (
        ls.LinkSpecifier.address("127.0.0.1", 5000),
        ls.LinkSpecifier.rsa(RSA),
        ls.LinkSpecifier.ed25519(ED),
        ls.LinkSpecifier.address("2001:db8::1", 443),
        ls.LinkSpecifier(77, b"unknown"),
    )
    decoded = ls.decode_specifiers(ls.encode_specifiers(specifiers))
    assert decoded == specifiers
    assert ls.identities(decoded) == ls.RelayIds(RSA, ED)
    assert ls.identities(decoded[:2]) == ls.RelayIds(RSA)
    assert ls.endpoints(decoded) == (("127.0.0.1", 5000), ("2001:db8::1", 443))


@pytest.mark.parametrize(
    "specifiers",
    [
        (ls.LinkSpecifier.ed25519(ED),),
        (ls.LinkSpecifier.rsa(RSA), ls.LinkSpecifier.rsa(RSA)),
    ],
)
def test_identities_have_to_be_clear(specifiers: tuple[ls.LinkSpecifier, ...]) -> None:
    with pytest.raises(ProtocolError):
        ls.identities(specifiers)


def test_known_specifiers_have_fixed_lengths() -> None:
    for kind, size in ((0, 5), (1, 6), (2, 32), (3, 20)):
        with pytest.raises(ProtocolError):
            ls.decode_specifiers(bytes([1, kind, size]) + bytes(size))
