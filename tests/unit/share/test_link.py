"""Private links: text form, checksum, errors that say where and why."""

import dataclasses
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import LinkFormatError
from pelure.share import checksum
from pelure.share.link import (
    ALPHABET,
    SCHEME,
    FieldType,
    PrivateLink,
    _from_text,
    _to_text,
    printable,
    split_path,
)

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
    data = _from_text(SAMPLE.encode())
    with pytest.raises(LinkFormatError, match="version 9"):
        PrivateLink.decode(SCHEME + _to_text(b"\x09" + data[1:]))
    with pytest.raises(LinkFormatError, match="update pelure"):
        PrivateLink.decode(SCHEME + _to_text(data + bytes([200, 1, 0])))
    assert PrivateLink.decode(SCHEME + _to_text(data + bytes([201, 1, 0]))) == SAMPLE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:112], "cut short"),
        (lambda data: data[:113], None),  # the keys and the secret are all that a link must have
        (lambda data: data[:113] + bytes([FieldType.EXPIRY, 4]) + bytes([1, 2, 3, 4]), "expiry is malformed"),
        (lambda data: data[:113] + bytes([FieldType.TITLE, 8]) + b"Photo", "cut short"),
        (lambda data: data[:113] + bytes([FieldType.TITLE, 5]) + b"Photo", None),
        (lambda data: data[:113] + bytes([201, 0, FieldType.TITLE]), "cut short"),
    ],
)
def test_a_checksum_that_is_right_makes_no_link_of_other_bytes(
    change: Callable[[bytes], bytes], says: str | None
) -> None:
    text = SCHEME + _to_text(change(_from_text(SAMPLE.encode())))
    if says is None:
        assert PrivateLink.decode(text).secret == SAMPLE.secret
    else:
        with pytest.raises(LinkFormatError, match=says):
            PrivateLink.decode(text)


def test_the_bits_that_fill_the_last_symbol_are_zero() -> None:
    """There is one text for a link, or one could be told from another of the same keys."""
    for last, good in ((0, True), (1, False)):
        words = [36, 0, last]  # 30 bits: three bytes, of which the first is 9, and six bits
        words += checksum.check_symbols(words)
        text = SCHEME + "".join(ALPHABET[word >> 5] + ALPHABET[word & 31] for word in words)
        with pytest.raises(LinkFormatError, match="version" if good else "malformed"):
            PrivateLink.decode(text)


def test_a_link_without_an_end_never_expires() -> None:
    assert not dataclasses.replace(SAMPLE, expires=None).expired(1e12)


@pytest.mark.parametrize(
    "hidden", ["\x1b", "\x7f", "\n", "\u202a", "\u202e", "\u2066", "\u2069", "\u200b", "\ufeff"]
)
def test_titles_are_shown_without_what_moves_text(hidden: str) -> None:
    assert printable(f"Pho{hidden}tos à 文") == "Photos à 文"
    assert PrivateLink.decode(dataclasses.replace(SAMPLE, title=f"Pho{hidden}tos").encode()) == SAMPLE


def test_long_titles_are_cut_between_characters() -> None:
    title = PrivateLink.decode(dataclasses.replace(SAMPLE, title="é" * 100).encode()).title
    assert title == "é" * 60


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
