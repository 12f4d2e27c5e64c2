"""Checking signed requests: HMAC-SHA256 over method, target, timestamp and body
(docs/contracts/README.md, part 2).

Written apart from the service's own signing, so that the two check each other.
"""

import hmac
from collections.abc import Mapping

from sandbox.problems import Problem


class Signatures:
    """The counterparties' secrets; timestamps further than `validity_ms` from the clock are
    refused.
    """

    def __init__(self, keys: Mapping[str, str], validity_ms: int) -> None:
        self._keys = {name: key.encode() for name, key in keys.items()}
        self._validity_ms = validity_ms

    def check(self, counterparty: str, *, method: str, target: bytes, timestamp: bytes, body: bytes, signature: bytes, now_ms: int) -> None:
        """Raises a 401 for a stale or wrong signature, a 403 for one that another counterparty's
        secret made.
        """
        signed = b"\n".join((method.encode(), target, timestamp, body))
        if not _matches(self._keys[counterparty], signed, signature):
            self._refuse(counterparty, signed, signature)
        if not timestamp.isdigit() or abs(now_ms - int(timestamp)) > self._validity_ms:
            raise Problem(401, "signature_stale", f"X-Timestamp is more than {self._validity_ms} ms from the server's clock: sign anew")

    def _refuse(self, counterparty: str, signed: bytes, signature: bytes) -> None:
        if any(_matches(key, signed, signature) for key in self._keys.values()):
            raise Problem(403, "forbidden", f"this signature is known, but its owner may not call {counterparty}")
        raise Problem(401, "signature_invalid", "X-Signature is not the HMAC-SHA256 of this request under this counterparty's secret")


def _matches(key: bytes, signed: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(key, signed, "sha256").hex().encode(), signature)
