"""Signatures of requests between the exchange's services (docs/contracts/README.md)."""

import hmac


def sign(key: str, method: str, target: str, timestamp_ms: int, body: bytes) -> str:
    """The hex HMAC-SHA256 over method, request target (path and query exactly as sent), time (ms
    since the epoch, UTC) and body.
    """
    text = f"{method}\n{target}\n{timestamp_ms}\n".encode() + body
    return hmac.digest(key.encode(), text, "sha256").hex()
