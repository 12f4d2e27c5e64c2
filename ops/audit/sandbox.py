"""What the sandbox says, by HTTP in pages. Raises SandboxError when it doesn't answer as it
should.
"""

import http.client
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
from django.conf import settings

from ops.audit.facts import Effect, Placed, Residue

PAGE_ROWS = 2_000
ANSWER_SECONDS_MAX = 30


class SandboxError(Exception):
    """The sandbox isn't there, or the counter that is configured isn't a sandbox; the text says
    which and what to do.
    """


def sandbox_url() -> str:
    """The sandbox's own address: the counter's, without its prefix. Raises SandboxError for a
    counter that can't be a sandbox's.
    """
    counter: str = settings.COUNTERPARTY_URLS["counter"]
    if not counter.endswith("/counter"):
        raise SandboxError(f"COUNTER_URL is {counter}: a sandbox serves the counter under /counter, so this one can't be audited")
    return counter.removesuffix("/counter")


class SandboxReader:
    """Reads the pages that the audit needs, over one kept-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url, self._prefix = url, parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS_MAX)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def orders(self, after_id: str = "0") -> tuple[list[Placed], str]:
        """The exchange orders placed after an id, and the id to go on from."""
        found = []
        for row in self._rows("/sandbox/orders", "after_id", after_id, key="id"):
            after_id = row["id"]
            found.append(
                Placed(
                    *(row["order_id"], row["user_id"], row["direction"], row["asset"]),
                    *(Decimal(row["quantity"]), Decimal(row["quoted_usdt"]), row["created_ms"]),
                )
            )
        return found, after_id

    def effects(self) -> tuple[Effect, ...]:
        """Everything that was applied, in that order."""
        return tuple(_effect(row) for row in self._rows("/sandbox/operations", "after_id", "0", key="id"))

    def residues(self) -> dict[str, Residue]:
        """Each order's sums of postings, zeros left out."""
        rows = self._rows("/sandbox/residues", "after", "", key="order_id")
        return {row["order_id"]: {_place(name): Decimal(amount) for name, amount in row["residue"].items()} for row in rows}

    def balanced(self) -> bool:
        """Whether all of the ledger sums to zero."""
        return bool(self._get("/sandbox/balance")["balanced"])

    def _rows(self, path: str, parameter: str, after: str, *, key: str) -> Iterator[dict[str, Any]]:
        while True:
            rows = self._get(f"{path}?{urlencode({parameter: after, 'limit': PAGE_ROWS})}")["rows"]
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][key]

    def _get(self, target: str) -> Any:
        try:
            self._connection.request("GET", self._prefix + target)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise SandboxError(f"no sandbox answers at {self._url} ({error}): start it with `make up`, or correct COUNTER_URL") from error
        if answer.status != http.client.OK:
            raise SandboxError(f"{self._url}{target} answered {answer.status}: is COUNTER_URL a sandbox's?")
        return msgspec.json.decode(body)


def _effect(row: dict[str, Any]) -> Effect:
    result = row["result"]
    amounts = (_amount(result.get(name)) for name in ("sold", "bought", "min_lot"))
    return Effect(row["order_id"], row["user_id"] or "", row["key"], *amounts)


def _amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _place(name: str) -> tuple[str, str]:
    account, _, asset = name.rpartition("|")
    return account, asset
