"""Users of the exchange, for trials: they place orders at the sandbox's counter at an even rate,
and close what they opened.

The orders are drawn from one seeded generator; what can be closed depends on what the
counter has answered by then.
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any
from urllib.parse import urlsplit

CLOSE_SHARE = 0.4  # of mixed orders
MISC_SHARE = 0.03  # orders of other kinds, besides those asked for: intake must filter them
QUOTED_SHARE = 0.1  # asks for a quote first; a quote costs the sandbox as much as an order, and both share the machine with the service
MISC_KINDS = ("DEPOSIT", "WITHDRAW", "FEE")
FIRST_USER = 1001
QUANTITIES = {"BTC": (0.001, 0.4), "ETH": (0.02, 6.0)}  # of a user's order; a few hundred to some ten thousand USDT
DECIMALS = (3, 4, 6, 8)
SENDERS_MAX = 16
ANSWER_SECONDS_MAX = 10.0


class UnreachableError(Exception):
    """The counter doesn't take connections; the text says what to do."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What a user wants now. `kind`: OPEN, CLOSE, or another kind of sync order."""

    kind: str
    user_id: str
    asset: str = ""
    quantity: str = ""
    contract_id: str | None = None
    quoted: bool = False


class Users:
    """The users with their open contracts. Safe in threads."""

    def __init__(self, users: int, *, direction: str, asset: str, seed: int | None) -> None:
        self._random = Random(seed)  # noqa: S311 trial orders aren't cryptography
        self._user_ids = [str(FIRST_USER + number) for number in range(users)]
        self._direction = direction
        self._assets = tuple(QUANTITIES) if asset == "mixed" else (asset,)
        self._open: list[tuple[str, str, str]] = []  # (user, asset, contract), in no order
        self._lock = threading.Lock()

    def next_order(self) -> OrderRequest:
        """The next order; a CLOSE takes its contract off the open ones."""
        with self._lock:
            quoted = self._random.random() < QUOTED_SHARE
            if self._direction == "close":
                return OrderRequest("CLOSE", self._random.choice(self._user_ids), self._random.choice(self._assets), quoted=False)
            if self._direction == "mixed" and self._random.random() < CLOSE_SHARE and self._open:
                return self._close()
            asset = self._random.choice(self._assets)
            return OrderRequest("OPEN", self._random.choice(self._user_ids), asset, self._quantity(asset), quoted=quoted)

    def misc(self) -> OrderRequest | None:
        """Now and then an order that is no exchange."""
        with self._lock:
            if self._random.random() >= MISC_SHARE:
                return None
            return OrderRequest(self._random.choice(MISC_KINDS), self._random.choice(self._user_ids))

    def opened(self, user_id: str, asset: str, contract_id: str) -> None:
        """The counter opened a contract."""
        with self._lock:
            self._open.append((user_id, asset, contract_id))

    def _close(self) -> OrderRequest:
        index = self._random.randrange(len(self._open))
        self._open[index], self._open[-1] = self._open[-1], self._open[index]
        user_id, asset, contract_id = self._open.pop()
        return OrderRequest("CLOSE", user_id, asset, contract_id=contract_id)

    def _quantity(self, asset: str) -> str:
        least, most = QUANTITIES[asset]
        return f"{self._random.uniform(least, most):.{self._random.choice(DECIMALS)}f}"


@dataclass(slots=True)
class Tally:
    """How many orders were placed, and how many refused. Safe in threads."""

    kinds: Counter[str] = field(default_factory=Counter)  # taken by the counter, by kind
    refusals: Counter[str] = field(default_factory=Counter)  # by the answer's code, or by what broke
    usdt: Decimal = Decimal(0)  # quoted, over all exchange orders
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def placed(self) -> int:
        """Exchange orders that the counter took."""
        return self.kinds["OPEN"] + self.kinds["CLOSE"]

    @property
    def misc(self) -> int:
        """Orders of other kinds that it took."""
        return sum(self.kinds[kind] for kind in MISC_KINDS)

    def took(self, kind: str, usdt: Decimal) -> None:
        """The counter took one."""
        with self.lock:
            self.kinds[kind] += 1
            self.usdt += usdt

    def refused(self, code: str) -> None:
        """It didn't, or nobody knows."""
        with self.lock:
            self.refusals[code] += 1


class Till:
    """One user-facing connection to the counter, kept alive."""

    def __init__(self, counter_url: str) -> None:
        parts = urlsplit(counter_url)
        self._prefix = parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS_MAX)

    def post(self, path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """One POST, never repeated: an order has no key. Raises OSError, http.client.HTTPException
        or ValueError.
        """
        body = json.dumps(fields)
        try:
            self._connection.request("POST", self._prefix + path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        return answer.status, found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class Placing:
    """Places so many orders at an even rate, by a few senders that share one timetable: who is late
    sends at once.
    """

    def __init__(self, counter_url: str, users: Users, *, count: int, rate: float) -> None:
        self._url = counter_url
        self._users = users
        self._count, self._rate = count, rate
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._began = 0.0
        self.tally = Tally()

    def run(self, on_progress: Callable[[Tally], None] = lambda _: None, *, every_seconds: float = 0.2) -> float:
        """Places them all and returns the seconds it took. Raises UnreachableError when the counter
        doesn't answer at all.
        """
        self._check_reachable()
        self._began = time.monotonic()
        senders = [threading.Thread(target=self._send_all, name=f"sender-{n}", daemon=True) for n in range(min(SENDERS_MAX, self._count))]
        for sender in senders:
            sender.start()
        try:
            self._watch(senders, on_progress, every_seconds)
        finally:
            self._stopped.set()
        return time.monotonic() - self._began

    def _watch(self, senders: Sequence[threading.Thread], on_progress: Callable[[Tally], None], every_seconds: float) -> None:
        for sender in senders:
            while sender.is_alive():
                sender.join(every_seconds)
                on_progress(self.tally)

    def _check_reachable(self) -> None:
        parts = urlsplit(self._url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS_MAX)
        try:
            connection.connect()
        except OSError as error:
            raise UnreachableError(
                f"no counter answers at {self._url} ({error}): start the sandbox with `make up`, or correct COUNTER_URL"
            ) from error
        finally:
            connection.close()

    def _send_all(self) -> None:
        till = Till(self._url)
        while (due := self._take()) is not None:
            if self._stopped.wait(max(due - time.monotonic(), 0)):
                break
            self._send(till, self._users.next_order())
            if misc := self._users.misc():
                self._send(till, misc)
        till.close()

    def _take(self) -> float | None:
        """When the next order is due, on the monotonic clock; None when all are taken."""
        with self._lock:
            number, self._next = self._next, self._next + 1
        return self._began + number / self._rate if number < self._count else None

    def _send(self, till: Till, request: OrderRequest) -> None:
        try:
            status, answer = self._post(till, request)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.tally.refused(f"no answer: {type(error).__name__}")
            return
        if status != http.client.CREATED:
            self.tally.refused(str(answer.get("code", status)))
            return
        self.tally.took(request.kind, Decimal(answer.get("usdt") or 0))
        if request.kind == "OPEN":
            self._users.opened(request.user_id, request.asset, answer["contract_id"])

    def _post(self, till: Till, request: OrderRequest) -> tuple[int, dict[str, Any]]:
        if request.kind in MISC_KINDS:
            return till.post("/v1/misc-orders", {"user_id": request.user_id, "kind": request.kind})
        fields: dict[str, Any] = {"user_id": request.user_id, "direction": request.kind, "asset": request.asset}
        if request.quantity:
            fields["quantity"] = request.quantity
        if request.contract_id:
            fields["contract_id"] = request.contract_id
        if request.quoted:
            status, quote = till.post("/v1/quotes", fields)
            if status not in {http.client.OK, http.client.CREATED}:
                return status, quote
            fields["quote_id"] = quote["quote_id"]
        return till.post("/v1/orders", fields)
