"""The control socket: how a command talks to the pelure process that owns the state folder.

A Unix socket of mode 0600 in the state folder. One connection is one request: a line of JSON
``{"op": NAME, …}`` goes in, lines of JSON come out: events, then ``{"event": "done", …}`` or
``{"event": "error", "message": …}``. Closing the connection ends what was asked for (a foreground
``share`` that follows events, say).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pelure.errors import PelureError, ProtocolError

SOCKET_NAME = "control.sock"
MAX_REQUEST = 1 << 23  # a command line may have two megabytes, JSON at most quadruples them
MAX_ANSWER = 1 << 26
"""Bytes of one line; the answer to ``status`` has one of thousands of circuits."""

log = logging.getLogger(__name__)
Emit = Callable[..., Coroutine[Any, Any, None]]
Handler = Callable[[dict[str, Any], Emit], Coroutine[Any, Any, dict[str, Any]]]


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """``path`` as ``bind`` and ``connect`` take it, at most 107 bytes: a longer one by its folder."""
    if len(os.fsencode(path)) < 108:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlServer:
    """Serves the operations in ``handlers`` to whoever may open the socket (this user)."""

    def __init__(self, folder: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = folder / SOCKET_NAME
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The caller holds the folder's lock, so a socket file found there is a dead one."""
        self.path.unlink(missing_ok=True)
        previous = os.umask(0o177)
        try:
            with _short(self.path) as path:
                self._server = await asyncio.start_unix_server(self._accept, path, limit=MAX_REQUEST)
        finally:
            os.umask(previous)

    async def close(self) -> None:
        """Stop listening, end the requests under way, remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def emit(event: str, **fields: Any) -> None:
            writer.write(json.dumps({"event": event, **fields}).encode() + b"\n")
            await writer.drain()

        try:
            request = json.loads(await reader.readline())
            handler = self._handlers[request["op"]]
        except (ValueError, KeyError, TypeError):
            await emit(
                "error", message="the running pelure does not know this request: are both the same version?"
            )
            return
        work = asyncio.ensure_future(handler(request, emit))
        gone = asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await emit("done", **work.result())
        except ConnectionError:
            raise  # the client's: nobody hears
        except (PelureError, OSError) as error:
            await emit("error", message=str(error))
        except Exception:
            log.exception("bug: the operation %s failed", request["op"])
            await emit("error", message="a bug ended this; the log of the running pelure has it")
        finally:
            for future in (work, gone):
                future.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def request(folder: Path, op: str, **fields: Any) -> AsyncIterator[dict[str, Any]]:
    """Ask the process that owns ``folder``; yield its events, ``done`` last.

    Raises ``FileNotFoundError`` or ``ConnectionRefusedError`` if none runs, ``PelureError`` with its message
    if it answers with an error.
    """
    with _short(folder / SOCKET_NAME) as path:
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER)
    try:
        writer.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        await writer.drain()
        while line := await reader.readline():
            event = json.loads(line)
            if event["event"] == "error":
                raise PelureError(event["message"])
            yield event
            if event["event"] == "done":
                return
        raise ProtocolError("the running pelure ended before it answered")
    finally:
        writer.close()


def is_running(folder: Path) -> bool:
    """Whether a control socket stands in ``folder`` (its process may still have died)."""
    return (folder / SOCKET_NAME).exists()
