"""The key that seals are signed with: Ed25519, as `openssl genpkey -algorithm ed25519` writes
it.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

PURPOSE: Final = b"acceptance seal\n"  # so that no other use of the key can make a seal


def private_key(pem: str) -> Ed25519PrivateKey:
    """Raises ValueError for anything else than an Ed25519 key without a password."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except Exception as error:  # cryptography raises several, and none of their words may be shown
        raise ValueError("no private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("no Ed25519 key")  # noqa: TRY004 - the text is wrong, not a type of ours
    return key


def is_private_key(pem: str) -> bool:
    """Whether seals can be signed with it."""
    try:
        private_key(pem)
    except ValueError:
        return False
    return True


def public_key(pem: str) -> Ed25519PublicKey:
    """The public key, also of a private one. Raises ValueError."""
    if "PRIVATE KEY" in pem:
        return private_key(pem).public_key()
    try:
        key = load_pem_public_key(pem.encode())
    except Exception as error:
        raise ValueError("no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("no Ed25519 key")  # noqa: TRY004
    return key


def name_of(key: Ed25519PublicKey) -> str:
    """16 characters of its hash: which key a seal says it was signed with."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, root: str) -> bytes:
    return key.sign(PURPOSE + root.encode())


def is_signed(keys: Mapping[str, Ed25519PublicKey], name: str, root: str, signature: bytes) -> bool:
    """Whether one of the keys, that of this name, signed the root."""
    if name not in keys:
        return False
    try:
        keys[name].verify(signature, PURPOSE + root.encode())
    except InvalidSignature:
        return False
    return True
