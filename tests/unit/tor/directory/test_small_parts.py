"""Tokenizer, protocols, versions, families, bandwidth weights, compression: the small parts, one by one."""

from __future__ import annotations

import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DirectoryError
from pelure.tor.directory.bandwidth_weights import ClassTotals, compute_weights
from pelure.tor.directory.compression import choose_encoding, compress, decompress
from pelure.tor.directory.family import canonical_family, parse_family
from pelure.tor.directory.protocols import Protocols
from pelure.tor.directory.tokenizer import (
    Section,
    decode_base64,
    decode_document,
    encode_base64,
    encode_object,
    format_time,
    parse_hex,
    parse_int,
    parse_time,
    tokenize,
)
from pelure.tor.directory.tor_version import TorVersion, compare_versions
from unit.tor.directory.support import survives


class TestTokenizer:
    def test_items_and_objects(self) -> None:
        text = "one a b\nopt two\n\nthree x\n" + encode_object("THING", b"\0" * 100) + "four\n"
        items = list(tokenize(text))
        assert [item.keyword for item in items] == ["one", "two", "three", "four"]
        assert items[0].args == ["a", "b"] and items[0].arg(1) == "b"
        assert items[2].need_object("THING") == b"\0" * 100
        assert text[items[2].start : items[2].end].endswith("-----END THING-----\n")
        with pytest.raises(DirectoryError):
            items[0].arg(2)
        with pytest.raises(DirectoryError):
            items[2].need_object("OTHER")

    @pytest.mark.parametrize(
        "text",
        [
            "!bad\n",
            "key;word\n",
            "k\n-----BEGIN X-----\nAA==\n",
            "k\n-----BEGIN X-----\nAA==\n-----END Y-----\n",
            "k\n-----BEGIN X-----\n!!!!\n-----END X-----\n",
            "k\n-----BEGIN X\n",
            "k " + "x" * 300_000 + "\n",
        ],
    )
    def test_malformed(self, text: str) -> None:
        with pytest.raises(DirectoryError):
            list(tokenize(text))

    def test_sections_count(self) -> None:
        section = Section(list(tokenize("a 1\na 2\nb\n")), "the test")
        assert [item.rest for item in section.all("a")] == ["1", "2"]
        assert section.one("b").rest == "" and section.maybe("c") is None
        for call in (lambda: section.one("c"), lambda: section.one("a"), lambda: section.maybe("a")):
            with pytest.raises(DirectoryError):
                call()

    def test_sizes_and_nul(self) -> None:
        with pytest.raises(DirectoryError):
            decode_document(b"x" * 11, 10)
        with pytest.raises(DirectoryError):
            decode_document(b"a\0b")

    def test_times(self) -> None:
        assert parse_time("1970-01-02 00:00:01") == 86401
        assert format_time(86401.9) == "1970-01-02 00:00:01"
        for text in ("1970-01-02", "1970-13-02 00:00:01", "1970-01-02 00:00:01 ", "19700-01-02 00:00:01"):
            with pytest.raises(DirectoryError):
                parse_time(text)

    def test_numbers_and_hex(self) -> None:
        assert parse_int("-5", -9, 9) == -5
        assert parse_hex("aBcd", 2) == b"\xab\xcd"
        for text in ("", "-", "5x", "٣", "10", "9" * 30):
            with pytest.raises(DirectoryError):
                parse_int(text, -9, 9)
        for text in ("ab", "zzzz", "é" * 4):
            with pytest.raises(DirectoryError):
                parse_hex(text, 2)

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=64))
    def test_base64(self, data: bytes) -> None:
        assert decode_base64(encode_base64(data)) == data
        assert decode_base64(encode_base64(data), len(data)) == data
        with pytest.raises(DirectoryError):
            decode_base64(encode_base64(data), len(data) + 1)

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=300))
    def test_random_bytes(self, data: bytes) -> None:
        survives(lambda one: list(tokenize(decode_document(one))), data)
        survives(lambda one: decode_base64(one.decode("latin-1")), data)


class TestProtocols:
    def test_reading_and_asking(self) -> None:
        spoken = Protocols.parse("Relay=1-4,6 Link=3")
        assert spoken.supports("Relay", 4) and spoken.supports("Relay", 6)
        assert not spoken.supports("Relay", 5) and not spoken.supports("HSDir", 2)
        assert str(spoken) == "Link=3 Relay=1-4,6"
        assert spoken == Protocols.parse("Link=3 Relay=1-3,4,6")
        assert str(spoken.missing(Protocols.parse("Link=3-4 Relay=2 Cons=1"))) == "Cons=1 Link=4"
        assert not Protocols.parse("")

    @pytest.mark.parametrize(
        "text", ["Link", "Link=x", "Link=4-3", "Link=64", "Link=3 Link=4", "=3", "L,nk=1", "a=1-"]
    )
    def test_malformed(self, text: str) -> None:
        with pytest.raises(DirectoryError):
            Protocols.parse(text)

    @settings(deadline=None, max_examples=100)
    @given(
        st.dictionaries(
            st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,8}", fullmatch=True),
            st.sets(st.integers(0, 63), min_size=1),
        )
    )
    def test_round_trip(self, wanted: dict[str, set[int]]) -> None:
        text = " ".join(f"{name}={','.join(map(str, sorted(versions)))}" for name, versions in wanted.items())
        parsed = Protocols.parse(text)
        assert Protocols.parse(str(parsed)) == parsed
        assert parsed.versions() == sorted((n, v) for n, versions in wanted.items() for v in versions)


class TestVersions:
    def test_order(self) -> None:
        ordered = [
            "0.0.9pre3", "0.0.9rc1", "0.0.9", "0.2.1.1-alpha", "0.2.1.2-alpha", "0.2.1.2-rc",
            "0.4.8.0-alpha-dev", "0.4.9.2", "0.4.9.9", "0.4.9.11", "Tor 0.4.10.1", "1.0", "nonsense", "zzz",
        ]  # fmt: skip
        for index, one in enumerate(ordered):
            for other in ordered[index + 1 :]:
                assert compare_versions(one, other) < 0 < compare_versions(other, one), (one, other)
            assert compare_versions(one, one) == 0

    def test_what_is_none(self) -> None:
        for text in ("", "x", "1", "0.4x", "0.4.9.", "0.4.9x", "9999999999.1"):
            assert TorVersion.parse(text) is None, text
        assert TorVersion.parse("0.4.9.11 (git-1234567890abcdef)") == TorVersion.parse("0.4.9.11")


class TestFamilies:
    def test_canonical_form(self) -> None:
        me, other = b"\1" * 20, "ab" * 20
        assert (
            canonical_family([f"${other}=Nick", "Zoe", f"{other.upper()}"], me)
            == f"$0101{'01' * 18} ${other.upper()} zoe"
        )
        assert parse_family(["$xyz", "ok", "bad!", f"${other}~n"]) == {"ok", f"${other.upper()}"}


class TestBandwidthWeights:
    def test_published_case_is_in_the_consensus_tests_these_are_the_others(self) -> None:
        cases = [
            ClassTotals(40, 20, 40, 10, 110),
            ClassTotals(60, 10, 20, 100, 190),
            ClassTotals(10, 60, 40, 90, 200),
            ClassTotals(5, 100, 60, 10, 175),
            ClassTotals(5, 20, 200, 150, 375),
            ClassTotals(200, 20, 5, 10, 235),
            ClassTotals(200, 20, 5, 150, 375),
            ClassTotals(30, 40, 2, 9, 81),
            ClassTotals(),
        ]
        for totals in cases:
            weights = compute_weights(totals, 10000)
            assert weights is not None, totals
            assert list(weights) == sorted(weights)
            assert all(0 <= value <= 10000 for value in weights.values()), (totals, weights)
            assert abs(weights["Wgg"] + weights["Wmg"] - 10000) <= 10
            assert abs(weights["Wee"] + weights["Wme"] - 10000) <= 10
            assert abs(weights["Wgd"] + weights["Wmd"] + weights["Wed"] - 10000) <= 10

    def test_far_too_many_middles_have_no_balance(self) -> None:
        assert compute_weights(ClassTotals(10, 100, 10, 5, 125), 10000) is None

    @settings(deadline=None, max_examples=100)
    @given(st.tuples(*[st.integers(1, 10**9)] * 4))
    def test_no_totals_break_it(self, totals: tuple[int, int, int, int]) -> None:
        weights = compute_weights(ClassTotals(*totals, sum(totals)), 10000)
        assert weights is None or all(-1 <= value <= 10001 for value in weights.values())


class TestCompression:
    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=2000), st.sampled_from(["identity", "deflate", "gzip", "x-zstd"]))
    def test_round_trip(self, data: bytes, encoding: str) -> None:
        assert decompress(compress(data, encoding), encoding, 2000) == data

    @pytest.mark.parametrize("encoding", ["identity", "deflate", "gzip", "x-zstd"])
    def test_bombs_do_not_go_off(self, encoding: str) -> None:
        bomb = compress(b"\0" * 5_000_000, encoding)
        with pytest.raises(DirectoryError, match="allowed"):
            decompress(bomb, encoding, 100_000)

    def test_joined_pieces(self) -> None:
        assert decompress(zlib.compress(b"a") + zlib.compress(b"b"), "deflate", 9) == b"ab"
        frames = zstandard.ZstdCompressor().compress(b"a") + zstandard.ZstdCompressor().compress(b"b")
        assert decompress(frames, "x-zstd", 9) == b"ab"

    def test_empty_streams_without_end(self) -> None:
        with pytest.raises(DirectoryError, match="pieces"):
            decompress(zlib.compress(b"") * 500_000, "deflate", 1000)

    def test_malformed(self) -> None:
        for encoding in ("deflate", "gzip", "x-zstd"):
            with pytest.raises(DirectoryError):
                decompress(b"garbage garbage", encoding, 100)
        with pytest.raises(DirectoryError):
            decompress(zlib.compress(b"x" * 100)[:-3], "deflate", 1000)
        with pytest.raises(DirectoryError):
            decompress(b"", "br", 100)
        with pytest.raises(DirectoryError):
            compress(b"", "br")

    def test_what_is_chosen(self) -> None:
        assert choose_encoding("deflate, gzip, x-zstd") == "x-zstd"
        assert choose_encoding("gzip;q=0.5") == "gzip"
        assert choose_encoding("br") == "identity"

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=200), st.sampled_from(["deflate", "gzip", "x-zstd"]))
    def test_random_bytes(self, data: bytes, encoding: str) -> None:
        survives(lambda one: decompress(one, encoding, 1000), data)
