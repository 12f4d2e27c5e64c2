"""The ledger as business: named accounts, and the postings of every kind of movement. Each function
is one movement; its sum is zero.

Accounts: `user:<id>`, `owed:<id>` (what step 1 of a CLOSE booked for the user), `counter:suspense`
(USDT between a placement and its clearing), `counter:contracts` (coins that open contracts stand
for), `system`, `fund`, `market`, and `float`, where every first deposit comes from.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from sandbox.problems import Rejection
from sandbox.storage import PlacedOrder, Posting, Storage

SUSPENSE = "counter:suspense"
CONTRACTS = "counter:contracts"
SYSTEM = "system"
FUND = "fund"
MARKET = "market"
FLOAT = "float"
FLOATS = {"USDT": Decimal(1_000_000_000_000), "BTC": Decimal(10_000_000), "ETH": Decimal(100_000_000)}  # of system and of fund
USER_FLOAT_USDT = Decimal(100_000_000)  # a user's first deposit


def user(user_id: str) -> str:
    return f"user:{user_id}"


def owed(user_id: str) -> str:
    return f"owed:{user_id}"


def move(source: str, destination: str, asset: str, amount: Decimal) -> list[Posting]:
    return [Posting(source, asset, -amount), Posting(destination, asset, amount)]


def placement(order: PlacedOrder) -> list[Posting]:
    """An OPEN takes the user's USDT at once; a CLOSE moves nothing before step 1."""
    if order.direction == "CLOSE":
        return []
    return move(user(order.user_id), SUSPENSE, "USDT", Decimal(order.quoted_usdt))


def adjustment(order: PlacedOrder) -> list[Posting]:
    """Step 1. OPEN: system gets USDT and gives coin. CLOSE: system gets coin, and the USDT is
    booked as owed to the user.
    """
    usdt, quantity = Decimal(order.quoted_usdt), Decimal(order.quantity)
    if order.direction == "OPEN":
        return move(SUSPENSE, SYSTEM, "USDT", usdt) + move(SYSTEM, CONTRACTS, order.asset, quantity)
    return move(CONTRACTS, SYSTEM, order.asset, quantity) + move(SUSPENSE, owed(order.user_id), "USDT", usdt)


def payout(order: PlacedOrder, amount: Decimal) -> list[Posting]:
    """What a transfer to a CLOSE's own user settles besides: the USDT is owed no longer."""
    return move(owed(order.user_id), SUSPENSE, "USDT", amount)


def exchange(sell_asset: str, sold: Decimal, buy_asset: str, bought: Decimal) -> list[Posting]:
    return move(FUND, MARKET, sell_asset, sold) + move(MARKET, FUND, buy_asset, bought)


def book(storage: Storage, postings: Sequence[Posting], *, order_id: str | None, key: str | None, at_ms: int) -> None:
    """Posts them all, inside the caller's transaction; refuses what doesn't sum to zero."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for posting in postings:
        sums[posting.asset] += posting.amount
    if any(sums.values()):
        raise AssertionError(f"the postings of {key} don't balance: {dict(sums)}")
    storage.post(postings, order_id=order_id, key=key, at_ms=at_ms)


def require_funds(storage: Storage, account: str, asset: str, amount: Decimal) -> None:
    """Rejects with `insufficient_funds` when the account holds less than the amount."""
    held = storage.balance(account, asset) or Decimal(0)
    if held < amount:
        raise Rejection(400, "insufficient_funds", f"{account} holds {held} {asset}, less than {amount}")


def open_books(storage: Storage, at_ms: int) -> None:
    """Gives system and fund their floats, once in a database's life."""
    if storage.balance(FLOAT, "USDT") is not None:
        return
    for account in (SYSTEM, FUND):
        for asset, amount in FLOATS.items():
            book(storage, move(FLOAT, account, asset, amount), order_id=None, key=None, at_ms=at_ms)


def meet_user(storage: Storage, user_id: str, at_ms: int) -> None:
    """Opens the account of a user seen for the first time, with a deposit."""
    if storage.balance(user(user_id), "USDT") is None:
        book(storage, move(FLOAT, user(user_id), "USDT", USER_FLOAT_USDT), order_id=None, key=None, at_ms=at_ms)
