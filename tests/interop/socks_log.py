"""A doorman before a SOCKS 5 proxy, for tests: it writes down where programs want to go.

Only connections to onion services go on to the proxy: a browser also calls home, which no test may do.
"""

from __future__ import annotations

import socket
import threading

_SECONDS = 120.0


class SocksLog:
    """Listens on ``port`` of 127.0.0.1, in front of the proxy at ``(host, port)``; a context manager.

    ``wanted`` are the hosts that clients asked for, whether they got there or not.
    """

    def __init__(self, proxy: tuple[str, int]) -> None:
        self.wanted: set[str] = set()
        self._proxy = proxy
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._proxy, _SECONDS) as proxy:
            try:
                if not self._greet(client, proxy):
                    return
                back = threading.Thread(target=_copy, args=(proxy, client), daemon=True)
                back.start()
                _copy(client, proxy)
                back.join()
            except (OSError, EOFError):
                pass

    def _greet(self, client: socket.socket, proxy: socket.socket) -> bool:
        """RFC 1928, sections 3 and 4: note the host, pass the request on if it is allowed."""
        greeting = _exactly(client, 2)
        proxy.sendall(greeting + _exactly(client, greeting[1]))
        client.sendall(_exactly(proxy, 2))
        request = _exactly(client, 4)
        if request[3] == 3:
            size = _exactly(client, 1)
            address = size + _exactly(client, size[0])
            host = address[1:].decode("ascii", "replace")
        else:
            address = _exactly(client, 4 if request[3] == 1 else 16)
            host = socket.inet_ntop(socket.AF_INET if request[3] == 1 else socket.AF_INET6, address)
        port = _exactly(client, 2)
        self.wanted.add(host)
        allowed = host.endswith(".onion")
        if allowed:
            proxy.sendall(request + address + port)
        else:
            client.sendall(b"\x05\x02\x00\x01" + bytes(6))  # not allowed by ruleset (section 6)
        return allowed

    def __enter__(self) -> SocksLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _exactly(source: socket.socket, size: int) -> bytes:
    data = source.recv(size, socket.MSG_WAITALL) if size else b""
    if len(data) < size:
        raise EOFError
    return data


def _copy(source: socket.socket, to: socket.socket) -> None:
    try:
        while part := source.recv(1 << 16):
            to.sendall(part)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass
