"""Keys that must be known before a C tor authority starts: its RSA identity and its v3 authority keys."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from interop.ctor.node import CTorError


def make_rsa_identity(data: Path) -> str:
    """Write ``keys/secret_id_key`` (RSA-1024, PKCS#1 PEM) into the DataDirectory; return the fingerprint."""
    keys = _keys_folder(data)
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    path = keys / "secret_id_key"
    path.touch(mode=0o600)
    path.write_bytes(pem)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    digest = hashes.Hash(hashes.SHA1())
    digest.update(public)
    return digest.finalize().hex().upper()


def make_authority_keys(data: Path, dir_port: int) -> str:
    """Run ``tor-gencert`` for the DataDirectory; return the v3 identity digest in hex."""
    keys = _keys_folder(data)
    command = ["tor-gencert", "--create-identity-key", "-m", "12", "-a", f"127.0.0.1:{dir_port}"]
    command += ["-i", "authority_identity_key", "-s", "authority_signing_key", "-c", "authority_certificate"]
    command += ["--passphrase-fd", "0"]
    done = subprocess.run(command, cwd=keys, input=b"none\n", capture_output=True, timeout=300, check=False)
    if done.returncode != 0:
        raise CTorError(f"tor-gencert failed: {done.stderr.decode(errors='replace')}")
    for line in (keys / "authority_certificate").read_text().splitlines():
        if line.startswith("fingerprint "):
            return line.split()[1]
    raise CTorError("tor-gencert wrote a certificate without a fingerprint line")


def _keys_folder(data: Path) -> Path:
    keys = data / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(0o700)
    return keys
