"""Headless Chromium for tests, driven over the DevTools protocol through a pair of pipes.

No port is opened for it, and no library is needed: messages are JSON that ends with a zero byte. The browser
has a profile of its own, and everything but loopback goes to the SOCKS proxy that it is given.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 90.0
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--mute-audio",
    "--disable-background-networking",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=OptimizationHints,MediaRouter,DialMediaRouteProvider,HttpsUpgrades",
    "--metrics-recording-only",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)
Event = dict[str, Any]


class Chromium:
    """A running browser; a context manager. ``proxy`` is ``HOST:PORT`` of a SOCKS 5 proxy."""

    def __init__(self, home: Path, proxy: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        program = shutil.which("chromium")
        assert program is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # File descriptors that can't be the 3 and 4 that the browser wants them as.
        ours = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (to_browser, from_browser)]
        log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._pid = os.posix_spawn(
            program,
            [
                program,
                *OPTIONS,
                f"--user-data-dir={home / 'profile'}",
                f"--proxy-server=socks5://{proxy}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "about:blank",
            ],
            {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(home / "chromium.log"), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, ours[0], 3),
                (os.POSIX_SPAWN_DUP2, ours[1], 4),
            ],
            setsid=True,
        )
        for fd in (to_browser, from_browser, *ours):
            os.close(fd)
        self.events: list[Event] = []
        self._answers: dict[int, Event] = {}
        self._numbers = itertools.count(1)
        self._news = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while part := os.read(self._in, 1 << 16):
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                with self._news:
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)
                    self._news.notify_all()
                if message.get("method") == "Target.attachedToTarget":
                    self._watch(message["params"]["sessionId"])
        with self._news:
            self._over = True
            self._news.notify_all()

    def _watch(self, session: str) -> None:
        """Hear of the requests of a page or frame that has come up."""
        for method in ("Network.enable", "Audits.enable"):
            self._send(method, {}, session)

    def _send(self, method: str, parameters: Event, session: str | None) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return number

    def _wait(self, what: str, ready: Callable[[], Any]) -> Any:
        """Wait until ``ready()`` is true; its value."""
        found: Any = None

        def look() -> bool:
            nonlocal found
            found = ready()
            return bool(found) or self._over

        with self._news:
            self._news.wait_for(look, SECONDS)
        assert found, f"Chromium: no {what}; the last events: {self.events[-10:]}"
        return found

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Event:
        """Call a method of the protocol; its result."""
        number = self._send(method, parameters, session)
        answer: Event = self._wait(f"answer to {method}", lambda: self._answers.pop(number, None))
        assert "error" not in answer, (method, answer)
        result: Event = answer["result"]
        return result

    def wait(self, method: str, fits: Callable[[Event], bool] = lambda event: True, since: int = 0) -> Event:
        """The first event ``method`` that fits, of those from number ``since`` on."""

        def find() -> Event | None:
            for event in self.events[since:]:
                if event["method"] == method and fits(event["params"]):
                    return event
            return None

        found: Event = self._wait(method, find)
        parameters: Event = found["params"]
        return parameters

    def page(self) -> Page:
        """A new, empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.call(
            "Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True
        )
        return Page(self, session)

    def requests(self) -> set[str]:
        """Addresses of everything that the pages asked for; the browser's own ``data:`` images left out."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return {found["request"]["url"] for found in sent if not found["request"]["url"].startswith("data:")}

    def violations(self) -> list[Event]:
        """What the pages' Content-Security-Policy has blocked."""
        issues = [event["params"] for event in self.events if event["method"] == "Audits.issueAdded"]
        return [issue for issue in issues if is_violation(issue)]

    def download(self, page: Page, expression: str, folder: Path) -> Path:
        """The file that running ``expression`` in a page downloads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allowAndName",
            downloadPath=str(folder),
            eventsEnabled=True,
        )
        since = len(self.events)
        page.evaluate(expression)
        ends = ("completed", "canceled")
        done = self.wait("Browser.downloadProgress", lambda event: event["state"] in ends, since)
        assert done["state"] == "completed", done
        return folder / str(done["guid"])

    def close(self) -> None:
        """End the browser and its helpers."""
        try:
            self._send("Browser.close", {}, None)
        except OSError:
            pass
        ends = time.monotonic() + 10
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > ends:
                os.killpg(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                break
            time.sleep(0.02)  # waitpid has no time limit of its own
        os.close(self._out)
        self._reader.join(10)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_violation(issue: Event) -> bool:
    """Whether an ``Audits.issueAdded`` is about a Content-Security-Policy."""
    return bool(issue["issue"]["code"] == "ContentSecurityPolicyIssue")


class Page:
    """One page of a :class:`Chromium`."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self.session = session

    def open(self, url: str) -> str | None:
        """Go to ``url`` and wait until everything is loaded; why it could not, if so."""
        since = len(self._browser.events)
        went = self._browser.call("Page.navigate", self.session, url=url)
        if "errorText" in went:
            return str(went["errorText"])
        self._browser.wait("Page.loadEventFired", since=since)
        return None

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript ``expression`` (awaited) in the page."""
        done = self._browser.call(
            "Runtime.evaluate", self.session, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def screenshot(self, to: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Take a picture (PNG) of the page as a screen of this size shows it."""
        browser, session = self._browser, self.session
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.call("Emulation.setEmulatedMedia", session, features=scheme)
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        taken = browser.call("Page.captureScreenshot", session, format="png")
        to.write_bytes(base64.b64decode(taken["data"]))
