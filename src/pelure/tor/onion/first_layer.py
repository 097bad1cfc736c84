"""The first layer of a descriptor: client authorization around the second layer (rend-spec-v3 2.5.1)."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from pelure.errors import DirectoryError
from pelure.tor.directory.tokenizer import (
    Section,
    decode_base64,
    decode_document,
    encode_base64,
    encode_object,
    tokenize,
)
from pelure.tor.onion.client_auth import CLIENT_ID_LEN, COOKIE_LEN, IV_LEN, AuthClient, ClientAuthSection

PAD_MULTIPLE = 10_000
AUTH_TYPE = "x25519"


@dataclass(frozen=True)
class FirstLayer:
    """The decrypted first layer: the authorization section and the still encrypted second layer."""

    auth: ClientAuthSection
    encrypted: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the plaintext, padded with NUL bytes to a multiple of 10,000 bytes."""
        lines = [
            f"desc-auth-type {AUTH_TYPE}\n",
            f"desc-auth-ephemeral-key {base64.b64encode(self.auth.ephemeral_key).decode('ascii')}\n",
        ]
        lines += [
            f"auth-client {encode_base64(entry.client_id)} {encode_base64(entry.iv)} "
            f"{encode_base64(entry.encrypted_cookie)}\n"
            for entry in self.auth.clients
        ]
        lines.append(f"encrypted\n{encode_object('MESSAGE', self.encrypted)}")
        plaintext = "".join(lines).rstrip("\n").encode("ascii")  # C tor ends without a newline
        return plaintext + bytes(-len(plaintext) % PAD_MULTIPLE)

    @classmethod
    def parse(cls, plaintext: bytes) -> FirstLayer:
        """Parse a decrypted first layer. Raises :class:`DirectoryError`."""
        section = Section(
            list(tokenize(decode_document(plaintext.rstrip(b"\0")))), "a descriptor's first layer"
        )
        if section.one("desc-auth-type").arg(0) != AUTH_TYPE:
            raise DirectoryError("a descriptor asks for an unknown type of client authorization")
        ephemeral = decode_base64(section.one("desc-auth-ephemeral-key").arg(0), 32)
        clients = tuple(
            AuthClient(
                decode_base64(item.arg(0), CLIENT_ID_LEN),
                decode_base64(item.arg(1), IV_LEN),
                decode_base64(item.arg(2), COOKIE_LEN),
            )
            for item in section.all("auth-client")
        )
        if not clients:
            raise DirectoryError("a descriptor's first layer lacks 'auth-client'")
        return cls(ClientAuthSection(ephemeral, clients), section.one("encrypted").need_object("MESSAGE"))
