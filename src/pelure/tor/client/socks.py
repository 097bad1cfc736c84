"""What a proxy's clients say and hear: SOCKS5 and HTTP CONNECT on one port, without I/O.

RFC 1928 and 1929 with Tor's additions (torspec, socks-extensions: RESOLVE and RESOLVE_PTR, credentials that
isolate; proposal 304: error codes of onion services). A client may send greeting, authentication, request
and first data in one write. What could leak past the network (UDP, BIND) is refused.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from enum import IntEnum

from pelure.errors import OnionServiceError, PathError, ProtocolError, StreamError
from pelure.tor.cell.commands import EndReason

MAX_HTTP_HEAD = 8192
"""Bytes of an HTTP request's head; more is refused."""

_NO_AUTH, _USERPASS, _NO_METHOD = 0x00, 0x02, 0xFF
_IPV4, _HOSTNAME, _IPV6 = 0x01, 0x03, 0x04
_SOCKS4, _SOCKS4_REJECTED = 0x04, bytes([0, 0x5B, *bytes(6)])
_UNSPECIFIED = bytes([_IPV4, 0, 0, 0, 0])
_NAME = re.compile(r"[a-z0-9._-]{1,253}")


class Command(IntEnum):
    """What is asked for; the other SOCKS commands are refused."""

    CONNECT = 0x01
    RESOLVE = 0xF0
    RESOLVE_PTR = 0xF1


_COMMANDS = frozenset(Command)


class Reply(IntEnum):
    """SOCKS5 reply codes (RFC 1928 section 6); those of onion services are in ``OnionServiceError.code``."""

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_NOT_SUPPORTED = 0x08


_REPLY_OF_END: dict[int, Reply] = {
    EndReason.RESOLVEFAILED: Reply.HOST_UNREACHABLE,
    EndReason.CONNECTREFUSED: Reply.CONNECTION_REFUSED,
    EndReason.EXITPOLICY: Reply.NOT_ALLOWED,
    EndReason.DONE: Reply.CONNECTION_REFUSED,  # of a stream not accepted yet: C tor's services' no
    EndReason.TIMEOUT: Reply.TTL_EXPIRED,
    EndReason.NOROUTE: Reply.HOST_UNREACHABLE,
    EndReason.CONNRESET: Reply.CONNECTION_REFUSED,
}
_HTTP_STATUS: dict[int, str] = {
    Reply.NOT_ALLOWED: "403 Forbidden",
    Reply.HOST_UNREACHABLE: "404 Not Found",
    Reply.TTL_EXPIRED: "504 Gateway Timeout",
}


class ProxyError(ProtocolError):
    """A client said something that can't be served; ``answer`` is what to send before closing."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. ``host`` is a name or an IP address without brackets; ``http`` tells its dialect.

    ``credentials`` (user, password) only isolate: requests with different ones never share a circuit.
    """

    command: Command
    host: str
    port: int
    credentials: tuple[bytes, bytes] | None = field(default=None, repr=False)
    http: bool = False

    def accept(self, address: str = "") -> bytes:
        """The answer that it worked; ``address`` is the result of a RESOLVE or RESOLVE_PTR."""
        if self.http:
            return b"HTTP/1.1 200 Connection established\r\n\r\n"
        return _socks_reply(Reply.SUCCEEDED, _bound(address) if address else _UNSPECIFIED)

    def refuse(self, code: int) -> bytes:
        """The answer that it failed with ``code``, a :class:`Reply` or an onion service's code."""
        if not self.http:
            return _socks_reply(code)
        status = _HTTP_STATUS.get(code, "503 Service Unavailable" if code >= 0xF0 else "502 Bad Gateway")
        return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


def reply_code(error: BaseException) -> int:
    """The code that tells a client about ``error``."""
    if isinstance(error, OnionServiceError):
        return error.code
    if isinstance(error, StreamError):
        return _REPLY_OF_END.get(error.reason or EndReason.MISC, Reply.GENERAL_FAILURE)
    if isinstance(error, PathError):
        return Reply.NETWORK_UNREACHABLE
    if isinstance(error, TimeoutError):
        return Reply.TTL_EXPIRED
    return Reply.GENERAL_FAILURE


def _socks_reply(code: int, bound: bytes = _UNSPECIFIED) -> bytes:
    """A SOCKS5 reply with the address ``bound`` and port 0."""
    return bytes([5, code, 0]) + bound + bytes(2)


def _bound(address: str) -> bytes:
    """The type and bytes of an IP address or, for RESOLVE_PTR, a host name."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        name = address.encode("ascii", "replace")[:255]
        return bytes([_HOSTNAME, len(name)]) + name
    return bytes([_IPV4 if ip.version == 4 else _IPV6]) + ip.packed


class ProxyParser:
    """One client's connection up to its request: :meth:`feed` bytes until :attr:`request` is there."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self._buffer = bytearray()
        self._greeted = False
        self._userpass = False
        self._credentials: tuple[bytes, bytes] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent; returns what to send back at once.

        Raises :class:`ProxyError`: send its answer, then close.
        """
        self._buffer += data
        if self._buffer and self._buffer[0] != 5 and not self._greeted:
            self._read_http()
            return b""
        answers = b""
        try:
            answers += self._read_greeting()
            answers += self._read_credentials()
            self._read_request()
        except _Incomplete:
            pass
        except ProxyError as error:
            raise ProxyError(str(error), answers + error.answer) from error
        return answers

    def take_rest(self) -> bytes:
        """What the client sent behind its request already: the first bytes of its stream."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    # ---- SOCKS5 ----

    def _peek(self, start: int, end: int) -> bytes:
        if len(self._buffer) < end:
            raise _Incomplete
        return bytes(self._buffer[start:end])

    def _read_greeting(self) -> bytes:
        """Version, number of methods, methods (RFC 1928 section 3)."""
        if self._greeted:
            return b""
        methods = self._peek(2, 2 + self._peek(1, 2)[0])
        del self._buffer[: 2 + len(methods)]
        if _USERPASS in methods:
            method, self._userpass = _USERPASS, True
        elif _NO_AUTH in methods:
            method = _NO_AUTH
        else:
            raise ProxyError("a SOCKS client offers no known way to authenticate", bytes([5, _NO_METHOD]))
        self._greeted = True
        return bytes([5, method])

    def _read_credentials(self) -> bytes:
        """User name and password (RFC 1929); any are right, they only isolate."""
        if not self._userpass:
            return b""
        if self._peek(0, 1) != b"\1":
            raise ProxyError("a SOCKS client authenticates in an unknown version", b"\1\1")
        user_end = 2 + self._peek(1, 2)[0]
        password_end = user_end + 1 + self._peek(user_end, user_end + 1)[0]
        credentials = self._peek(2, user_end), self._peek(user_end + 1, password_end)
        del self._buffer[:password_end]
        self._credentials, self._userpass = credentials, False
        return b"\1\0"

    def _read_request(self) -> None:
        """Version, command, reserved, address type, address, port (RFC 1928 section 4)."""
        if self.request is not None:
            return
        version, command, _, kind = self._peek(0, 4)
        if version != 5:
            raise _refusal("a SOCKS request of an unknown version", Reply.GENERAL_FAILURE)
        if command not in _COMMANDS:
            raise _refusal("a SOCKS command that would leave the network", Reply.COMMAND_NOT_SUPPORTED)
        if kind == _HOSTNAME:
            start, end = 5, 5 + self._peek(4, 5)[0]
        elif kind in (_IPV4, _IPV6):
            start, end = 4, 8 if kind == _IPV4 else 20
        else:
            raise _refusal("a SOCKS address of an unknown type", Reply.ADDRESS_NOT_SUPPORTED)
        address, port = self._peek(start, end), int.from_bytes(self._peek(end, end + 2), "big")
        host = _host_name(address) if kind == _HOSTNAME else str(ipaddress.ip_address(address))
        if command == Command.CONNECT and port == 0:
            raise _refusal("a SOCKS request without a port", Reply.GENERAL_FAILURE)
        if command == Command.RESOLVE_PTR and kind == _HOSTNAME and not _is_ip(host):
            raise _refusal("only an IP address has a name to look up", Reply.ADDRESS_NOT_SUPPORTED)
        del self._buffer[: end + 2]
        self.request = Request(Command(command), host, port, self._credentials)

    # ---- HTTP CONNECT ----

    def _read_http(self) -> None:
        """A request line ``CONNECT host:port HTTP/1.x`` and header fields (RFC 9110 section 9.3.6)."""
        if self.request is not None:
            return
        if self._buffer[0] == _SOCKS4:
            raise ProxyError("SOCKS4 is not spoken: use SOCKS5, with host names (socks5h)", _SOCKS4_REJECTED)
        if not self._buffer[:1].isalpha():
            raise ProxyError("neither SOCKS5 nor HTTP: use SOCKS5, with host names (socks5h)")
        head, blank, _ = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MAX_HTTP_HEAD:
            raise ProxyError("the head of an HTTP request is too long", _http_error("431 Too Large"))
        if not blank:
            return
        lines = bytes(head).split(b"\r\n")
        words = lines[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            raise ProxyError("a malformed HTTP request", _http_error("400 Bad Request"))
        if words[0] != b"CONNECT":
            explanation = "This is a SOCKS5 and HTTP CONNECT proxy, not a web server or a plain HTTP proxy.\n"
            raise ProxyError(
                "an HTTP request other than CONNECT", _http_error("405 Not Allowed", explanation)
            )
        host, port = _split_authority(words[1])
        del self._buffer[: len(head) + 4]
        self.request = Request(Command.CONNECT, host, port, _proxy_credentials(lines[1:]), http=True)


class _Incomplete(Exception):
    """More bytes are needed."""


def _refusal(message: str, code: Reply) -> ProxyError:
    return ProxyError(message, _socks_reply(code))


def _http_error(status: str, text: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


def _is_ip(host: str) -> bool:
    if ":" not in host and not host[-1:].isdigit():
        return False  # as nearly every host name, and sooner than by an exception
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_name(raw: bytes) -> str:
    """A host name that is fit for BEGIN, in lower case; raises :class:`ProxyError`."""
    try:
        host = raw.decode("ascii").lower()
    except UnicodeDecodeError:
        host = ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if _is_ip(host):
        return str(ipaddress.ip_address(host))
    if not _NAME.fullmatch(host):
        raise _refusal("a host name with characters that no host name has", Reply.GENERAL_FAILURE)
    return host


def _split_authority(target: bytes) -> tuple[str, int]:
    host, _, port = target.rpartition(b":")
    if not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ProxyError("CONNECT without a port", _http_error("400 Bad Request"))
    try:
        return _host_name(host), int(port)
    except ProxyError as error:
        raise ProxyError(str(error), _http_error("400 Bad Request")) from error


def _proxy_credentials(lines: list[bytes]) -> tuple[bytes, bytes] | None:
    """User and password of a ``Proxy-Authorization: Basic`` field; other schemes isolate as they are."""
    for line in lines:
        name, _, value = line.partition(b":")
        if name.strip().lower() != b"proxy-authorization":
            continue
        scheme, _, token = value.strip().partition(b" ")
        try:
            user, _, password = base64.b64decode(token, validate=True).partition(b":")
        except binascii.Error:
            return scheme, token
        return user, password
    return None
