"""Names from a drive never lead out of the folder they are written to (issue: path and link traversal)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelure.errors import DriveError
from pelure.hyper.bee.bee import Bee
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.entry import DriveEntry
from pelure.hyper.drive.local import LocalDrive
from pelure.hyper.drive.mirror import Mirror
from pelure.hyper.drive.safe_folder import TEMPORARY, SafeFolder, UnsafeName, check_link, split


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[SafeFolder]:
    with SafeFolder(tmp_path / "out", create=True) as folder:
        yield folder


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a",
        "../x",
        "/../x",
        "/a/../../x",
        "/./x",
        "//x",
        "/a//b",
        "/a/",
        "/new\nline",
        "/return\r",
        "/bell\x07",
        "/escape\x1b[2J",
        "/nul\0",
        "/del\x7f",
        "/line\u2028separator",
        "/back\\slash",
        "/" + "x" * 256,
    ],
)
def test_unsafe_names_are_refused(folder: SafeFolder, path: str) -> None:
    with pytest.raises(UnsafeName), folder.create(path) as file:
        file.write(b"x")
    with pytest.raises(UnsafeName):
        folder.remove(path)
    assert everything(folder.root.parent) == {"out"}


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_any_text_is_split_into_names_or_refused(text: str) -> None:
    try:
        parts = split(text)
    except UnsafeName:
        return
    assert parts and all(part not in ("", ".", "..") and "/" not in part for part in parts)


def test_a_link_in_a_folders_place_is_not_followed(folder: SafeFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (folder.root / "trap").symlink_to(outside)
    with pytest.raises(UnsafeName), folder.create("/trap/precious") as file:
        file.write(b"overwritten")
    with pytest.raises(UnsafeName):
        folder.remove("/trap/precious")
    with pytest.raises(UnsafeName):
        folder.symlink("/trap/link", "precious")
    with pytest.raises(UnsafeName):
        folder.rename("/trap/precious", "/stolen")
    assert everything(outside) == {"precious"}
    assert (outside / "precious").read_text() == "mine"


def test_a_link_in_a_files_place_is_replaced_not_written_through(folder: SafeFolder, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (folder.root / "file").symlink_to(target)
    with folder.create("/file") as file:
        file.write(b"new")
    assert target.read_text() == "mine"
    assert not (folder.root / "file").is_symlink()
    (folder.root / "other").symlink_to(target)
    with pytest.raises(DriveError):
        folder.open("/other")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/l", "/etc/passwd"),
        ("/l", "../x"),
        ("/a/l", "../../x"),
        ("/l", "a/../b"),
        ("/d/l", "a/../b"),  # "a" may be a link to ".."
        ("/a/b/l", "../c/../../../x"),
        ("/l", ""),
        ("/l", "a\nb"),
        ("/l", "\\\\server"),
    ],
)
def test_links_that_lead_out_are_refused(path: str, target: str) -> None:
    with pytest.raises(UnsafeName):
        check_link(path, target)


@pytest.mark.parametrize(
    ("path", "target"), [("/l", "a"), ("/l", "a/b"), ("/a/l", "../b"), ("/a/b/l", "../../c"), ("/l", "./a")]
)
def test_links_within_are_fine(path: str, target: str) -> None:
    check_link(path, target)


def test_an_unfinished_file_never_appears(folder: SafeFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.create("/file") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert everything(folder.root) == set()


def test_a_folder_gives_way_to_no_file_or_link(folder: SafeFolder) -> None:
    with folder.create("/a/b") as file:
        file.write(b"x")
    with pytest.raises(DriveError, match="is a folder here"), folder.create("/a") as file:
        file.write(b"y")
    with pytest.raises(DriveError, match="is a folder here"):
        folder.symlink("/a", "b")
    assert everything(folder.root) == {"a", "a/b"}


def test_what_a_killed_process_left_unfinished_goes_and_nothing_else(folder: SafeFolder) -> None:
    (folder.root / "deep").mkdir()
    (folder.root / "elsewhere").symlink_to("deep")
    for name in (f"{TEMPORARY}1", f"deep/{TEMPORARY}2", "deep/kept", f"deep/not{TEMPORARY}"):
        (folder.root / name).write_bytes(b"x")
    folder.remove_unfinished()
    assert everything(folder.root) == {"deep", "elsewhere", "deep/kept", f"deep/not{TEMPORARY}"}


def test_emptied_folders_go(folder: SafeFolder) -> None:
    for path in ("/a/b/one", "/a/two"):
        with folder.create(path) as file:
            file.write(b"x")
    assert folder.remove("/a/b/one")
    assert everything(folder.root) == {"a", "a/two"}
    assert folder.remove("/a/two")
    assert not folder.remove("/a/two")
    assert everything(folder.root) == set()


def test_executable_bits_follow_the_right_to_read(folder: SafeFolder) -> None:
    before = os.umask(0o027)
    try:
        with folder.create("/run", executable=True) as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (folder.root / "run").stat().st_mode & 0o777 == 0o750
    folder.set_executable("/run", False)
    assert (folder.root / "run").stat().st_mode & 0o777 == 0o640


async def test_a_hostile_drive_is_exported_without_harm(tmp_path: Path) -> None:
    """Entries as no honest writer makes them, put into the index directly."""
    store = Corestore(tmp_path / "store")
    drive = Drive(store)
    await drive.put("/fine", b"fine")
    files = Bee(drive.core).sub(b"files")
    fine = await drive.entry("/fine")
    assert fine is not None
    for path in ("../up", "/../up", "/a/../../up", "absolute", "/evil\nname", "/sub"):
        await files.put(path.encode(), DriveEntry(path, 0, blob=fine.blob).encode())
    await files.put(b"/sub/inner", DriveEntry("/sub/inner", 0, blob=fine.blob).encode())
    await files.put(b"/trap", DriveEntry("/trap", 0, linkname=str(tmp_path)).encode())
    await files.put(b"/trap/file", DriveEntry("/trap/file", 0, blob=fine.blob).encode())
    out = LocalDrive(tmp_path / "out", create=True)
    steps = [step async for step in Mirror(drive, out).steps()]
    assert {step.path for step in steps if step.operation == "problem"} >= {"/evil\nname", "/trap", "/../up"}
    assert everything(tmp_path) - {path for path in everything(tmp_path) if path.startswith("store")} <= {
        "out",
        "out/fine",
        "out/sub",
        "out/sub/inner",
        "out/trap",
        "out/trap/file",
    }
    assert (tmp_path / "out/fine").read_bytes() == b"fine"
    out.close()
    store.close()


def test_only_regular_files_are_opened_and_none_is_waited_for(folder: SafeFolder) -> None:
    """What stood there as a file a moment ago may be a pipe by now, which nobody may ever write to."""
    os.mkfifo(folder.root / "pipe")
    (folder.root / "folder").mkdir()
    (folder.root / "link").symlink_to("folder")
    descriptors = len(os.listdir("/proc/self/fd"))
    for path, says in (("/pipe", "regular"), ("/folder", "regular"), ("/link", "symbolic link")):
        with pytest.raises(DriveError, match=says):
            folder.open(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def path_of(size: int) -> str:
    """A path of ``size`` bytes."""
    each = 200 if size % 201 != 1 else 199
    return "".join("/" + "d" * min(each, size - at - 1) for at in range(0, size, each + 1))


def test_names_and_paths_have_the_lengths_that_files_can_have(folder: SafeFolder) -> None:
    longest = "é" * 127 + "x"  # 255 bytes
    with folder.create(f"/{longest}") as file:
        file.write(b"1")
    with pytest.raises(UnsafeName, match="longer than 255"):
        folder.create(f"/{longest}x")
    room = 4095 - len(os.fsencode(folder.root))
    with folder.create(path_of(room)) as file:
        file.write(b"1")
    with pytest.raises(UnsafeName, match="too long"):
        folder.create(path_of(room + 1))


def test_links_and_renames_do_what_they_say(folder: SafeFolder) -> None:
    with folder.create("/a/b/file", mtime=1_500_000_000.0) as file:
        file.write(b"1")
    assert os.stat(folder.root / "a/b/file").st_mtime == 1_500_000_000.0
    folder.symlink("/a/b/link", "file")
    assert folder.link_target("/a/b/link") == "file"
    folder.rename("/a/b/file", "/c/file")
    folder.rename("/a/b/link", "/c/link")
    assert everything(folder.root) == {"c", "c/file", "c/link"}  # what a move empties goes
