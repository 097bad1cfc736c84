"""TLS between relays and towards them (tor-spec section 2): "in-protocol" handshake, TLS 1.2 and 1.3.

The certificate of TLS proves nothing by itself: each side is authenticated afterwards, by the CERTS and
AUTHENTICATE cells (:mod:`pelure.tor.net.handshake`). pyOpenSSL's memory BIO is used rather than the
standard library's, because link authentication needs keying material exported from the session (RFC 5705).
No session is ever resumed and nothing is compressed (tor-spec section 2.2).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

import numpy as np
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray
from OpenSSL import SSL

from pelure.errors import LinkError
from pelure.tor.crypto.digests import sha256
from pelure.tor.crypto.keys import Rng

_lib, _ffi = Binding.lib, Binding.ffi
SCRATCH_SIZE = 256 * 1024  # bytes; more than one read of a link can decrypt to, or one write become
Buffer = bytes | memoryview | NDArray[np.uint8]
BASE32 = "abcdefghijklmnopqrstuvwxyz234567"

# What a current browser offers, of what OpenSSL has; C tor takes any of the first ones.
TLS13_CIPHERS = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
TLS12_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"
    b"ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
)
OP_NO_TICKET = 0x4000  # SSL_OP_NO_TICKET
MODE_RELEASE_BUFFERS = 0x10  # SSL_MODE_RELEASE_BUFFERS: an idle link holds no record buffers
MODE_ENABLE_PARTIAL_WRITE = 0x1  # set by pyOpenSSL; a write here takes everything or fails


def random_hostname(rng: Rng, prefix: str = "www.", suffix: str = ".com") -> str:
    """A name as C tor makes them: 8 to 20 base32 letters between ``prefix`` and ``suffix``."""
    length = 8 + rng(1)[0] % 13
    return prefix + "".join(BASE32[byte % 32] for byte in rng(length)) + suffix


@dataclass(frozen=True)
class TlsIdentity:
    """A responder's TLS key and its certificate. ``digest``: SHA-256 of the certificate's DER, 32 bytes."""

    certificate: x509.Certificate = field(repr=False)
    key: rsa.RSAPrivateKey = field(repr=False)

    @property
    def digest(self) -> bytes:
        return sha256(self.der)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def make_tls_identity(rng: Rng, now: float, lifetime: float) -> TlsIdentity:
    """A fresh RSA-2048 key with a certificate that says nothing of a relay, valid ``lifetime`` seconds.

    Its start lies up to a day back, at midnight, so that it does not tell when the relay was started.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, random_hostname(rng, suffix=".net"))])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, random_hostname(rng))])
    start = datetime.datetime.fromtimestamp(now - now % 86400, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(rng(8), "big") | 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(seconds=lifetime + 86400))
        .sign(key, hashes.SHA256())
    )
    return TlsIdentity(certificate, key)


def _context(cipher_list: bytes) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(MODE_RELEASE_BUFFERS)
    context.clear_mode(MODE_ENABLE_PARTIAL_WRITE)
    context.set_cipher_list(cipher_list)
    context.set_tls13_ciphersuites(TLS13_CIPHERS)
    return context


def client_context() -> SSL.Context:
    """For links that this process starts; the peer's certificate is checked by the cells that follow."""
    context = _context(TLS12_CIPHERS)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def server_context(identity: TlsIdentity) -> SSL.Context:
    """For links that peers start."""
    context = _context(TLS12_CIPHERS)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    return context


class Scratch:
    """Room for what OpenSSL gives out, shared by the sessions of one event loop."""

    def __init__(self) -> None:
        self.plain = _ffi.new("char[]", SCRATCH_SIZE)
        self.plain_view = memoryview(_ffi.buffer(self.plain))
        self.wire = _ffi.new("char[]", SCRATCH_SIZE)
        self.wire_buffer = _ffi.buffer(self.wire)


class TlsConnection:
    """One TLS session over no socket: wire bytes in and out, plain bytes out and in.

    Once it is established, this calls OpenSSL directly: pyOpenSSL's methods cost several times as much as
    what they do for a few cells.
    """

    def __init__(self, context: SSL.Context, scratch: Scratch, server_name: str | None = None) -> None:
        """An initiator if ``server_name`` (the name indication it sends) is given, else a responder."""
        self._tls = SSL.Connection(context, None)
        self._ssl, self._incoming, self._outgoing = self._tls._ssl, self._tls._into_ssl, self._tls._from_ssl
        self._scratch = scratch
        self.established = False
        self.ended = False
        self.records = 0  # opened so far
        if server_name is not None:
            self._tls.set_tlsext_host_name(server_name.encode())
            self._tls.set_connect_state()
            self._handshake()
        else:
            self._tls.set_accept_state()

    def receive(self, data: Buffer) -> memoryview:
        """Take wire bytes (at most 128 KiB); return what they decrypt to, perhaps nothing.

        What is returned is overwritten by the next call on any session with the same scratch. Wire bytes may
        be owed afterwards (:meth:`take`); ``ended`` tells that the peer said goodbye. Raises ``LinkError``
        if it is not TLS.
        """
        _lib.BIO_write(self._incoming, _ffi.from_buffer(data), len(data))
        if not self.established:
            try:
                if not self._handshake():
                    return self._scratch.plain_view[:0]
            except SSL.Error as error:
                raise LinkError("the peer broke the TLS session") from error
        return self._read_all()

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        self.established = True
        return True

    def _read_all(self) -> memoryview:
        """Decrypt every whole record that is there; peers write small ones."""
        ssl, memory, read = self._ssl, self._scratch.plain, _lib.SSL_read
        total = records = 0
        while (count := read(ssl, memory + total, SCRATCH_SIZE - total)) > 0:
            total += count
            records += 1
        self.records += records
        error = _lib.SSL_get_error(ssl, count)
        if error == _lib.SSL_ERROR_ZERO_RETURN:
            self.ended = True
        elif error != _lib.SSL_ERROR_WANT_READ:
            _lib.ERR_clear_error()
            raise LinkError("the peer broke the TLS session")
        return self._scratch.plain_view[:total]

    def send(self, data: Buffer) -> None:
        """Encrypt ``data``, not empty; the wire bytes are had by :meth:`take`. Raises ``LinkError``."""
        plain = _ffi.from_buffer(data)
        if _lib.SSL_write(self._ssl, plain, len(plain)) <= 0:
            _lib.ERR_clear_error()
            raise LinkError("the TLS session is over")

    def take(self) -> bytes:
        """Up to ``SCRATCH_SIZE`` wire bytes that are owed to the peer, ``b""`` if none are."""
        scratch = self._scratch
        count = _lib.BIO_read(self._outgoing, scratch.wire, SCRATCH_SIZE)
        return scratch.wire_buffer[:count] if count > 0 else b""

    def shut_down(self) -> None:
        """Say goodbye, if the session was ever established."""
        try:
            if self.established:
                self._tls.shutdown()
        except SSL.Error:
            pass

    @property
    def peer_certificate(self) -> bytes:
        """DER of the certificate the responder showed. Raises ``LinkError`` if it showed none."""
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise LinkError("the relay showed no TLS certificate")
        return bytes(certificate.public_bytes(serialization.Encoding.DER))

    @property
    def own_certificate(self) -> bytes:
        """DER of the certificate this responder shows."""
        certificate = self._tls.get_certificate(as_cryptography=True)
        assert certificate is not None
        return bytes(certificate.public_bytes(serialization.Encoding.DER))

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """RFC 5705 keying material of this session."""
        return bytes(self._tls.export_keying_material(label, length, context))
