"""The owner's mount: what programs do in it happens in the shared folder, and the publisher hears of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pelure.errors import ConfigError
from pelure.share.control import ControlServer, Emit
from pelure.share.link import PrivateLink
from pelure.share.owner_mount import mount_own
from pelure.share.record import ShareRecord, find_own

needs_fuse = pytest.mark.skipif(
    not os.environ.get("CI") and not (os.path.exists("/dev/fuse") and shutil.which("fusermount3")),
    reason="FUSE is not there (Debian: apt-get install fuse3)",
)
SCRIPT = """
set -eu
umask 022
mkdir -p new/deep
echo one >new/deep/file
echo two >>new/deep/file
cp -p old.txt new/copy.txt
printf '#!/bin/sh\\n' >new/run.sh
chmod +x new/run.sh
ln -s deep/file new/link
truncate -s 2 old.txt
mv new/copy.txt moved.txt
mv -n old.txt moved.txt || true
rm -r gone
mkdir empty
rmdir empty
touch touched
touch -d @1700000000 dated
"""


def _record(path: Path, *more: Path) -> ShareRecord:
    return ShareRecord("photos", "Photos", [str(path), *map(str, more)], "00" * 32, "11" * 32)


@needs_fuse
async def test_what_is_done_there_is_done_in_the_folder(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "mounted"
    (source / "gone" / "deep").mkdir(parents=True)
    (source / "gone" / "deep" / "file").write_text("x")
    (source / "old.txt").write_text("old one")
    os.utime(source / "old.txt", (1_600_000_000, 1_600_000_000))
    asked: list[dict[str, Any]] = []

    async def update(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
        asked.append(request)
        return {}

    node = ControlServer(tmp_path, {"share-update": update})
    await node.start()
    before = os.umask(0o077)  # as every pelure command has it
    try:
        mounted = await mount_own(_record(source), tmp_path, folder)
        done = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")

        def look() -> None:
            assert sorted(os.listdir(folder)) == sorted(os.listdir(source))
            with (folder / "moved.txt").open("r+b") as file:
                file.seek(4)
                file.write(b"two")
            assert (folder / "moved.txt").read_text() == "old two"
            with (folder / "nameless").open("w+b") as file:
                (folder / "nameless").unlink()
                file.write(b"written")
                file.truncate(4)
                file.seek(0)
                assert file.read() == b"writ"

        await asyncio.to_thread(look)
        await mounted.unmount()
    finally:
        os.umask(before)
        await node.close()
    assert sorted(os.listdir(source)) == ["dated", "moved.txt", "new", "old.txt", "touched"]
    assert (source / "new/deep/file").read_text() == "one\ntwo\n"
    assert (source / "new/deep/file").stat().st_mode & 0o777 == 0o644
    assert (source / "new/deep").stat().st_mode & 0o777 == 0o755
    assert os.access(source / "new/run.sh", os.X_OK)
    assert os.readlink(source / "new/link") == "deep/file"
    assert (source / "old.txt").read_text() == "ol"
    assert (source / "moved.txt").read_text() == "old two"
    assert (source / "dated").stat().st_mtime == 1_700_000_000
    assert abs((source / "touched").stat().st_mtime - time.time()) < 3600
    assert asked
    assert {request["share"] for request in asked} == {"photos"}
    assert os.listdir(folder) == []


async def test_what_can_not_be_mounted_to_write(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    for inside in (source / "mounted", tmp_path):
        with pytest.raises(ConfigError, match="lie in each other"):
            await mount_own(_record(source), tmp_path, inside)
    with pytest.raises(ConfigError, match="single files"):
        await mount_own(_record(source / "a"), tmp_path, tmp_path / "mounted")


def test_a_share_of_ones_own_is_known_by_its_name_and_its_links(tmp_path: Path) -> None:
    record = _record(tmp_path)
    record.save(tmp_path / "shares" / "photos")
    link = PrivateLink(bytes(32), bytes.fromhex(record.drive_key), bytes(32), bytes(16), None, "Photos")
    other = PrivateLink(bytes(32), bytes(32), bytes(32), bytes(16), None, "Photos")
    assert find_own(tmp_path / "shares", "photos") == record
    assert find_own(tmp_path / "shares", link.encode()) == record
    assert find_own(tmp_path / "shares", other.encode()) is None
    assert find_own(tmp_path / "shares", "holiday") is None
