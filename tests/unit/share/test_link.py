"""Private links: text form, checksum, errors that say where and why."""

import dataclasses

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import LinkFormatError
from pelure.share import checksum
from pelure.share.link import ALPHABET, SCHEME, PrivateLink, split_path

KEYS = st.binary(min_size=32, max_size=32)
LINKS = st.builds(
    PrivateLink,
    onion_key=KEYS,
    drive_key=KEYS,
    content_key=KEYS,
    secret=st.binary(min_size=16, max_size=16),
    expires=st.none() | st.integers(0, 2**40 - 1),
    title=st.text("abc déf-1", max_size=40),
)
SAMPLE = PrivateLink(bytes(range(32)), b"d" * 32, b"c" * 32, b"s" * 16, 1_800_000_000, "Photos")


@settings(deadline=None, max_examples=50)
@given(LINKS)
def test_round_trip(link: PrivateLink) -> None:
    text = link.encode()
    assert PrivateLink.decode(text) == link
    assert PrivateLink.decode(f"  {text.upper()[:50]}\n {text[50:]}") == link


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 180), st.integers(1, 31))
def test_one_wrong_character_is_found(place: int, shift: int) -> None:
    body = SAMPLE.encode()[len(SCHEME) :]
    right = body[place]
    wrong = ALPHABET[(ALPHABET.index(right) + shift) % 32]
    with pytest.raises(LinkFormatError, match=f"character {place + 1} after"):
        PrivateLink.decode(SCHEME + body[:place] + wrong + body[place + 1 :])


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=400) | st.text(ALPHABET, max_size=400).map(SCHEME.__add__))
def test_anything_else_is_a_format_error(text: str) -> None:
    with pytest.raises(LinkFormatError):
        PrivateLink.decode(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://example.org", "begins with"),
        (SCHEME, "cut short"),
        (SAMPLE.encode()[:-20], "mistyped|cut"),
        (SAMPLE.encode()[:-1], "lacks a character"),
        (SAMPLE.encode() + "l", "no link has"),
        (SAMPLE.encode() + "y" * 2000, "too long"),
    ],
)
def test_precise_errors(text: str, says: str) -> None:
    with pytest.raises(LinkFormatError, match=says):
        PrivateLink.decode(text)


def test_newer_version_and_unknown_fields() -> None:
    from pelure.share.link import _from_text, _to_text

    data = _from_text(SAMPLE.encode())
    with pytest.raises(LinkFormatError, match="version 9"):
        PrivateLink.decode(SCHEME + _to_text(b"\x09" + data[1:]))
    with pytest.raises(LinkFormatError, match="update pelure"):
        PrivateLink.decode(SCHEME + _to_text(data + bytes([200, 1, 0])))
    assert PrivateLink.decode(SCHEME + _to_text(data + bytes([201, 1, 0]))) == SAMPLE


def test_links_share_no_keys_and_hide_secrets() -> None:
    other = dataclasses.replace(SAMPLE, secret=b"t" * 16)
    assert other.discovery_key != SAMPLE.discovery_key
    assert other.identity.public != SAMPLE.identity.public
    assert "ssss" not in repr(SAMPLE)
    assert "cccc" not in repr(SAMPLE)
    assert SAMPLE.expired(1_800_000_000)
    assert not SAMPLE.expired(1_799_999_999)


def test_split_path() -> None:
    assert split_path("pelure:abc/photos/a b.jpg") == ("pelure:abc", "/photos/a b.jpg")
    assert split_path("pelure:abc") == ("pelure:abc", "/")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 1023), min_size=1, max_size=300), st.data())
def test_checksum_locates_one_symbol(symbols: list[int], data: st.DataObject) -> None:
    word = symbols + checksum.check_symbols(symbols)
    assert not any(checksum.syndromes(word))
    place = data.draw(st.integers(0, len(word) - 1))
    change = data.draw(st.integers(1, 1023))
    damaged = [*word]
    damaged[place] ^= change
    assert checksum.locate_error(damaged) == (place, word[place])


def test_the_text_and_the_keys_of_a_link_are_these_for_ever() -> None:
    """Links that were given out have to work with every later pelure; the keys by another HKDF."""
    text = (
        "pelure:yryynyodyonocbaebrfysdypba8tyre1nckbkfozdyctwgahdwxb63drct1ge3drct1ge3drct1ge3drct1ge3drc"
        "t1ge3drct1ge3drcptsga5dcptsga5dcptsga5dcptsga5dcptsga5dcptsga5dcptzgh5uqp3zgh5uqp3zgh5uqp3zgyofy"
        "biwuwoyyhdfy4dxqtzzgyfcixzfzy"
    )
    assert SAMPLE.encode() == text
    assert PrivateLink.decode(text) == SAMPLE
    assert SAMPLE.address == "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyp3kead.onion"

    def derived(info: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, b"pelure-link-v1", info).derive(b"s" * 16)

    assert SAMPLE.discovery_secret == derived(b"restricted discovery")
    assert SAMPLE.discovery_key.hex() == "3b78fa4bda1b44b544bf85832fbc5845f9012773e215718908a8ab3a7fc84802"
    assert SAMPLE.identity.seed == derived(b"identity")
    assert SAMPLE.identity.public.hex() == "8ec02e3a21f15cd085d9bca8770daa46d78bbeb68c6939356755938f843d4691"
