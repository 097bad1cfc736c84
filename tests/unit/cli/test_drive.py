"""``pelure drive``: the commands and what they print with ``--json``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pelure.cli import drive_tcp
from pelure.cli.drive_mirror import Pass
from pelure.cli.main import app
from pelure.cli.output import Output
from pelure.errors import DriveError
from pelure.hyper.core.corestore import Corestore
from pelure.hyper.drive.drive import Drive
from pelure.hyper.drive.mirror import Step
from pelure.streams import memory_pipe

Run = Callable[..., list[dict[str, Any]]]
START_SECONDS = 90


@pytest.fixture
def run(tmp_path: Path) -> Run:
    runner = CliRunner()

    def call(*words: str, status: int = 0) -> list[dict[str, Any]]:
        arguments = ["--state", str(tmp_path / "state"), "drive", *words]
        result = runner.invoke(app, [*arguments, "--json"])
        assert result.exit_code == status, (result.output, result.stderr, result.exception)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "big").write_bytes(os.urandom(200_000))
    (folder / "sub" / "run").write_text("#!")
    (folder / "sub" / "run").chmod(0o700)
    return folder


def names(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["op"], event["path"]) for event in events if event["event"] == "changed"]


def test_import_look_change_and_go_back(run: Run, folder: Path, tmp_path: Path) -> None:
    imported = run("import", str(folder))[-1]
    assert imported["event"] == "imported" and len(imported["key"]) == 64
    assert (imported["files"], imported["version"]) == (3, 4)
    key = imported["key"]
    entries = run("ls", key, "-r")
    assert [(entry["path"], entry["size"]) for entry in entries] == [
        ("/a.txt", 1),
        ("/sub/big", 200_000),
        ("/sub/run", 2),
    ]
    assert entries[2]["executable"]
    info = run("info", key)[0]
    assert info["writable"] and info["linked_files"] == 1 and info["linked_files_changed"] == []

    (tmp_path / "new").write_text("new")
    run("put", key, str(tmp_path / "new"), "/put")
    run("rm", "own", "a.txt")
    assert names(run("diff", key, "4")) == [("remove", "/a.txt"), ("add", "/put")]
    assert [(event["version"], event["op"], event["path"]) for event in run("log", key)] == [
        (6, "delete", "/a.txt"),
        (5, "put", "/put"),
        *((4, "put", path) for path in ("/sub/run", "/sub/big", "/a.txt")),
    ]
    run("diff", key, "3", status=1)
    run("checkout", key, "2", str(tmp_path / "none"), status=1)
    assert not (tmp_path / "none").exists()
    run("get", key, "/a.txt", str(tmp_path / "old"), "--version", "4")
    assert (tmp_path / "old").read_text() == "a"
    out = tmp_path / "out"
    assert run("export", key, str(out))[-1]["files"] == 3
    assert (out / "put").read_text() == "new" and not (out / "a.txt").exists()
    run("checkout", key, "4", str(out))
    assert (out / "a.txt").read_text() == "a" and not (out / "put").exists()

    with (folder / "sub" / "big").open("ab") as changed:
        changed.write(b"more")
    assert run("info", key)[0]["linked_files_changed"] == [str(folder / "sub" / "big")]
    plan = run("sync", str(folder), "--dry-run")
    assert sorted(names(plan)) == [("add", "/a.txt"), ("change", "/sub/big"), ("remove", "/put")]
    run("sync", str(folder))
    assert names(run("sync", str(folder))) == []


def test_cat_writes_bytes_only(folder: Path, tmp_path: Path, run: Run) -> None:
    run("import", str(folder), "--copy")
    arguments = ["--state", str(tmp_path / "state"), "drive", "cat", "own", "/sub/big"]
    result = CliRunner().invoke(app, [*arguments, "--start", "1000", "--end", "1010"])
    assert result.stdout_bytes == (folder / "sub" / "big").read_bytes()[1000:1010]


def test_a_file_that_cannot_be_got_leaves_the_old_one(folder: Path, tmp_path: Path, run: Run) -> None:
    run("import", str(folder))
    (folder / "sub" / "big").write_bytes(b"changed, so that its blocks are gone")
    out = tmp_path / "out"
    out.write_text("precious")
    run("get", "own", "/sub/big", str(out), status=1)
    assert out.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_encrypted_drive(run: Run, folder: Path) -> None:
    created = run("create", "--encrypted")[0]
    assert len(created["secret"]) == 64
    assert run("create")[0] == created
    run("import", str(folder))
    assert run("info")[0]["encrypted"]


def test_a_missing_and_a_wrong_encryption_key(run: Run, folder: Path, tmp_path: Path) -> None:
    secret = run("create", "--encrypted")[0]["secret"]
    key = run("import", str(folder))[-1]["key"]
    reader = ("--store", str(tmp_path / "reader"))

    def got(*words: str) -> str:
        out = str(tmp_path / "out")
        command = ["drive", "replicate", key, *reader, "--tcp", address, "--out", out, *words]
        return CliRunner().invoke(app, command).stderr

    command = [sys.executable, "-m", "pelure.cli.main", "--state", str(tmp_path / "state"), "drive"]
    serve = [*command, "serve", "own", "--tcp", "127.0.0.1:0", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = f"127.0.0.1:{json.loads(server.stdout.readline())['port']}"
        for words in ((), ("--secret", "00" * 32), ()):
            assert "encrypted with a key that was not given" in got(*words)
        assert not got("--secret", secret)
        server.send_signal(signal.SIGINT)
        assert server.wait(START_SECONDS) == 130
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
    assert len(run("ls", key, *reader, "-r")) == 3


def test_the_encryption_key_need_not_be_an_argument(run: Run, tmp_path: Path) -> None:
    created = run("create", "--encrypted")[0]
    file = tmp_path / "key"
    file.write_text(created["secret"] + "\n")
    for number, (given, typed) in enumerate(((f"@{file}", None), ("-", created["secret"] + "\n"))):
        words = ["drive", "info", created["key"], "--store", str(tmp_path / str(number)), "--json"]
        result = CliRunner().invoke(app, [*words, "--secret", given], input=typed)
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["encrypted"]
    for given in ("@/nowhere", "@/bin/sh", "-", "abc"):
        words = ["drive", "info", created["key"], "--store", str(tmp_path / "other"), "--secret", given]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "not a key"),
        ("rm", "own", "/nothing"),
        ("get", "own", "/nothing", "out"),
        ("cat", "own", "/nothing"),
        ("ls", "own", "--version", "99"),
        ("ls", "own", "/nowhere"),
        ("replicate", "00" * 32, "--tcp", "nowhere", "--out", "x"),
        ("put", "own", "/etc/hostname", "../x"),
        ("create", "--store", "/proc/none"),
    ],
)
def test_failures_are_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["--state", str(tmp_path), "drive", *words])
    assert result.exit_code == 1
    assert result.stderr.startswith("pelure: ") and result.stderr.count("\n") == 1


def test_serve_and_replicate(run: Run, folder: Path, tmp_path: Path) -> None:
    key = run("import", str(folder))[-1]["key"]
    command = [sys.executable, "-m", "pelure.cli.main", "--state", str(tmp_path / "state"), "drive"]
    serve = [*command, "serve", key, "--tcp", "127.0.0.1:0", "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        listening = json.loads(server.stdout.readline())
        assert listening["event"] == "listening" and listening["key"] == key
        out = tmp_path / "out"
        address = f"127.0.0.1:{listening['port']}"
        events = run("replicate", key, "--tcp", address, "--out", str(out), "--store", str(tmp_path / "r"))
        assert events[-1]["event"] == "complete" and events[-1]["files"] == 3
        for path in ("a.txt", "sub/big", "sub/run"):
            assert (out / path).read_bytes() == (folder / path).read_bytes()
        assert (out / "sub/run").stat().st_mode & 0o100
        other = ("replicate", "ab" * 32, "--tcp", address, "--store", str(tmp_path / "s"))
        run(*other, "--out", str(tmp_path / "nothing"), status=1)  # there is no such drive
        server.send_signal(signal.SIGINT)
        assert server.wait(START_SECONDS) == 130


def test_a_key_used_twice_ends_serving_and_reading(run: Run, folder: Path, tmp_path: Path) -> None:
    stores = [str(tmp_path / name) for name in ("first", "second", "reader")]
    key = run("import", str(folder), "--store", stores[0])[-1]["key"]
    Corestore(tmp_path / "second", (tmp_path / "first" / "primary-key").read_bytes()).close()
    (folder / "b.txt").write_text("b")
    (folder / "a.txt").write_text("another a")
    assert run("import", str(folder), "--store", stores[1])[-1]["key"] == key
    asyncio.run(read_drive(Path(stores[0]), Path(stores[2]), bytes.fromhex(key)))

    serve = [sys.executable, "-m", "pelure.cli.main", "--state", str(tmp_path / "state"), "drive", "serve"]
    serve += [key, "--tcp", "127.0.0.1:0", "--store", stores[1], "--json"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = f"127.0.0.1:{json.loads(server.stdout.readline())['port']}"
            replicate = ("replicate", key, "--tcp", address, "--store", stores[2], "--out")
            told = run(*replicate, str(tmp_path / "out"), status=1)
            _, said = server.communicate(timeout=START_SECONDS)
        finally:
            server.kill()
        assert "complete" not in [event["event"] for event in told]
        assert server.returncode == 1
        assert "used in two places" in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert run("info", key, "--store", stores[2])[0]["conflict"]
    run("export", key, str(tmp_path / "kept"), "--store", stores[2])
    assert (tmp_path / "kept" / "a.txt").read_text() == "a"
    (folder / "c.txt").write_text("c")
    assert run("import", str(folder), "--store", stores[1], status=1) == []


async def read_drive(source: Path, target: Path, key: bytes) -> None:
    """Replicate the drive ``key`` from the one store to the other."""
    one, other = Corestore(source), Corestore(target)
    left, right = memory_pipe()
    Drive(one, key).local_blobs()
    drive = Drive(other, key)
    async with one.replicate(left, True), other.replicate(right, False), asyncio.timeout(START_SECONDS):
        await drive.update(wait=True)
        await drive.download()
    one.close()
    other.close()


@pytest.mark.parametrize("command", ["export", "checkout", "sync"])
def test_files_of_ones_own_stay(command: str, run: Run, folder: Path, tmp_path: Path) -> None:
    run("import", str(folder))
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("mine")
    arguments = {
        "export": ["export", "own", str(out)],
        "checkout": ["checkout", "own", "4", str(out)],
        "sync": ["sync", str(out), "--pull"],
    }[command]
    events = run(*arguments, status=1)
    assert [event["path"] for event in events if event["event"] == "problem"] == ["/a.txt"]
    assert (out / "a.txt").read_text() == "mine" and (out / "sub" / "run").exists()
    (out / "sub" / "run").write_text("changed")
    run(*arguments, status=1)
    assert (out / "sub" / "run").read_text() == "changed"
    run(*arguments, "--overwrite")
    assert (out / "a.txt").read_text() == "a" and (out / "sub" / "run").read_text() == "#!"


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    store = Corestore(tmp_path / "state" / "drives")
    asyncio.run(Drive(store).put("/one\n  9 B  two", b""))
    store.close()
    for command in (["ls", "own"], ["log", "own"]):
        result = CliRunner().invoke(app, ["--state", str(tmp_path / "state"), "drive", *command])
        assert "one\\n  9 B  two" in result.stdout and result.stdout.count("\n") == 1


def test_problems_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    passes = Pass(Output(False), "folder", True)
    for _ in range(3):
        passes.tell(Step("problem", "/link", reason="it leads out"))
    assert capsys.readouterr().out == "left out /link: it leads out\n"
    with pytest.raises(DriveError):
        passes.check()


def test_a_peer_that_is_not_there_is_told_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_tcp, "_RETRY_SECONDS", 0.01)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        events = run("replicate", "ab" * 32, "--tcp", address, "--out", str(tmp_path / "out"), status=1)
    assert [(event["event"], event["reason"]) for event in events] == [("unreachable", "Connection refused")]
