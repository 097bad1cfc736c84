"""The link book: adding, finding, revoking, exporting."""

import random
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pelure.errors import ConfigError, PelureError
from pelure.share.link import PrivateLink
from pelure.share.linkbook import Entry, LinkBook, export_book, import_received
from pelure.share.received import cache_folder, forget


def entry(name: str, share: str = "s1", secret: bytes = b"s" * 16, **fields: object) -> Entry:
    link = PrivateLink(b"o" * 32, b"d" * 32, b"c" * 32, secret).encode()
    made = Entry(id=0, share=share, name=name, link=link, browser=False, service="a", created=time.time())
    return replace(made, **fields)


@pytest.fixture
def book(tmp_path: Path):
    with LinkBook(tmp_path / "book" / "links.sqlite") as opened:
        yield opened


def test_file_is_private(book: LinkBook, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "book" / "links.sqlite").stat().st_mode) == 0o600


def test_add_is_all_or_nothing(book: LinkBook) -> None:
    book.add([entry("alice")])
    with pytest.raises(ConfigError, match="named «alice» already"):
        book.add([entry("bob"), entry("alice")])
    assert [e.name for e in book.entries("s1")] == ["alice"]
    book.add([entry("alice", share="s2")])
    with pytest.raises(ConfigError, match="several links"):
        book.find("alice")
    assert book.find("alice", "s2").share == "s2"


def test_revoking_wipes_the_secret(book: LinkBook, tmp_path: Path) -> None:
    book.add([entry("alice", secret=b"Sixteen secret b")])
    held = book.find("alice")
    assert held.private_link().secret == b"Sixteen secret b"
    book.revoke(held)
    with pytest.raises(ConfigError, match="revoked already"):
        book.find("alice")
    gone = book.entries("s1")[0]
    assert gone.state() == "revoked"
    with pytest.raises(ConfigError, match="revoked"):
        gone.private_link()
    assert held.link is not None
    assert held.link.encode() not in (tmp_path / "book" / "links.sqlite").read_bytes()
    book.add([entry("alice")])


def test_a_link_revoked_meanwhile_stays_so(book: LinkBook) -> None:
    """A command that tags a link has read it before a node that runs beside it revokes it."""
    book.add([entry("alice")])
    read_before = book.find("alice")
    book.revoke(read_before)
    with pytest.raises(ConfigError, match="revoked already"):
        book.change(read_before, tags=("family",), note="sister")
    assert book.entries()[0].link is None
    assert book.entries()[0].state() == "revoked"


def test_what_others_changed_meanwhile_stays(book: LinkBook) -> None:
    book.add([entry("alice")])
    read_before = book.find("alice")
    book.change(read_before, expires=4e9)
    book.change(read_before, note="sister", tags=("family",))
    alice = book.find("alice")
    assert (alice.expires, alice.note, alice.tags) == (4e9, "sister", ("family",))


def test_a_name_is_checked_when_it_is_changed(book: LinkBook) -> None:
    book.add([entry("alice")])
    with pytest.raises(ConfigError):
        book.change(book.find("alice"), name="a\x1b[2Jb")
    book.change(book.find("alice"), name=" carol ")
    assert [e.name for e in book.entries()] == ["carol"]


def test_when_a_link_was_used_last(book: LinkBook) -> None:
    book.add([entry("alice"), entry("bob"), entry("carol")])
    book.used([book.find(name).id for name in ("alice", "carol")], now=77.0)
    assert [e.last_use for e in book.entries()] == [77.0, None, 77.0]
    before = time.time()
    book.used([book.find("bob").id])
    assert before <= (book.find("bob").last_use or 0) <= time.time()


def test_a_share_is_forgotten_with_its_links(book: LinkBook) -> None:
    book.add([entry("alice"), entry("alice", share="s2"), entry("bob", share="")])
    book.forget_share("s1")
    assert [e.share for e in book.entries()] == ["s2", ""]


def test_a_name_that_is_taken(book: LinkBook) -> None:
    book.add([entry("alice"), entry("bob", secret=b"t" * 16)])
    with pytest.raises(ConfigError, match="named «alice» already"):
        book.change(book.find("bob"), name="alice")


def test_received_links_are_forgotten_not_revoked(book: LinkBook, tmp_path: Path) -> None:
    book.add([entry("bob"), entry("bob", share=""), entry("docs", share="", secret=b"t" * 16)])
    assert book.find_minted("bob").share == "s1"
    with pytest.raises(ConfigError, match="given to you"):
        book.find_minted("docs")
    kept = cache_folder(tmp_path, book.find("docs").private_link())
    second = kept.with_name(f"{kept.name}-2")  # made where two commands read the drive at once
    for folder in (kept, second):
        folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match="no link is named"):
        forget(book, tmp_path, "alice")
    forget(book, tmp_path, "docs")
    assert kept.exists(), "the other link of the same drive uses it"
    forget(book, tmp_path, "bob")
    assert not kept.exists()
    assert not second.exists()
    assert [e.share for e in book.entries()] == ["s1"]


def test_states_and_search(book: LinkBook) -> None:
    book.add([entry("alice", expires=10.0, tags=("family",)), entry("bob", note="From Work")])
    assert [e.state(now=11) for e in book.entries()] == ["expired", "live"]
    assert [entry("a", expires=10.0).state(now) for now in (9.9, 10.0, None)] == [
        "live",
        "expired",
        "expired",
    ]
    assert entry("a", expires=4e9).state() == "live"
    assert [e.name for e in book.live("s1", now=11)] == ["bob"]
    assert [e.name for e in book.search("FAMILY ali")] == ["alice"]
    assert [e.name for e in book.search("work")] == ["bob"]
    with pytest.raises(ConfigError, match="no link is named"):
        book.find("carol")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, "\u202eevil"])
def test_bad_names(book: LinkBook, name: str) -> None:
    with pytest.raises(ConfigError):
        book.add([entry(name)])


def test_export_and_import(book: LinkBook, tmp_path: Path) -> None:
    book.add([entry("alice", tags=("x",)), entry("bob", secret=b"t" * 16)])
    assert "pelure:" not in export_book(book, secrets=False)
    assert import_received(book, export_book(book, secrets=True)) == 0  # which were made here
    with LinkBook(tmp_path / "other.sqlite") as other:
        text = export_book(book, secrets=True)
        assert import_received(other, text) == 2
        assert import_received(other, text) == 0
        assert {e.name for e in other.entries("")} == {"alice", "bob"}
        for bad in ("[1]", "{", '[{"link": 3}]', '[{"name":"a","link":"pelure:zz"}]'):
            with pytest.raises(PelureError):
                import_received(other, bad)
        for bad_bytes in (b"\xff\xfe", b"[" * 100_000):
            with pytest.raises(ConfigError, match="not a link book"):
                import_received(other, bad_bytes)


def test_imported_links_of_one_long_name_get_names_of_their_own(book: LinkBook, tmp_path: Path) -> None:
    name = "n" * 80
    book.add([entry(name, share=f"s{number}", secret=bytes([number]) * 16) for number in range(3)])
    with LinkBook(tmp_path / "other.sqlite") as other:
        assert import_received(other, export_book(book, secrets=True)) == 3
        assert {e.name for e in other.entries("")} == {name, f"{name[:70]} (2)", f"{name[:70]} (3)"}


def test_an_import_takes_each_link_once_and_names_of_forgotten_ones_again(
    book: LinkBook, tmp_path: Path
) -> None:
    book.add([entry("alice"), entry("alice", share="s2")])  # one link, twice
    with LinkBook(tmp_path / "other.sqlite") as other:
        other.add([entry("alice", share="", secret=b"t" * 16, revoked=1.0)])
        assert import_received(other, export_book(book, secrets=True)) == 1
        assert [(e.name, e.revoked) for e in other.entries("")] == [("alice", 1.0), ("alice", None)]


def test_another_process_that_reads_for_long_ends_no_later_change(book: LinkBook, tmp_path: Path) -> None:
    """What could not be written then is not left half done: the next change is made as ever."""
    book._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(tmp_path / "book" / "links.sqlite", isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM links").fetchall()
    with pytest.raises(ConfigError, match="locked"):
        book.add([entry("alice")])
    other.close()
    book.add([entry("bob")])
    assert [e.name for e in book.entries()] == ["bob"]


def test_damaged_book(tmp_path: Path) -> None:
    (tmp_path / "links.sqlite").write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(ConfigError, match="damaged"):
        LinkBook(tmp_path / "links.sqlite")


def test_any_damage_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "links.sqlite"
    with LinkBook(path) as book:
        book.add([entry(f"name {number}", tags=("x", "y"), note="a note") for number in range(20)])
    whole = path.read_bytes()
    choose = random.Random(1)
    refused = 0
    for number in range(120):
        damaged = bytearray(whole)
        if number % 3:
            at = choose.randrange(len(whole))
            damaged[at : at + choose.choice((1, 20, 200))] = choose.randbytes(choose.choice((1, 20)))
        else:
            del damaged[choose.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            with LinkBook(path) as book:
                assert all(isinstance(e.as_json()["name"], str) for e in book.entries())
                export_book(book, secrets=True)
                assert not book.search("nothing of this kind")
                book.add([entry("another", share="s2")])
        except ConfigError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize(
    "damage", ["tags='{'", "tags=7", "name=x'ff'", "created='x'", "expires='x'", "link=x'05'"]
)
def test_a_damaged_row_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    with LinkBook(tmp_path / "links.sqlite") as book:
        book.add([entry("alice")])
        book._db.execute(f"UPDATE links SET {damage}")
        with pytest.raises(ConfigError, match=r"link 1 .* damaged"):
            book.entries()


def test_a_disk_that_is_full_is_said_and_the_book_goes_on(book: LinkBook) -> None:
    book.add([entry("alice")])
    book._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(ConfigError, match="full"):
        book.add([entry(f"reader {number}") for number in range(500)])
    book._db.execute("PRAGMA max_page_count = 100000")
    assert [e.name for e in book.entries()] == ["alice"]
    book.add([entry("bob")])


def test_a_book_that_becomes_unreadable_is_an_error_of_ours(tmp_path: Path) -> None:
    with LinkBook(tmp_path / "links.sqlite") as book:
        book.add([entry("alice")])
        (tmp_path / "links.sqlite").write_bytes(b"x" * 20_000)
        with pytest.raises(ConfigError, match="can't be used"):
            book.entries()
