"""An in-process counterparty whose every call takes CALL_MS and succeeds: the rest of an order's
time is the service's.
"""

import json
import time
from decimal import Decimal
from typing import Any

from clearing.gateways import Action, Done, Gateways, SigningClock, StoredRequest, read_result

CALL_MS = 5.0


def answer(stored: StoredRequest) -> bytes:
    """The counterparty's answer to the request, at a price of 50,000 USDT a coin."""
    request = json.loads(stored.body)
    body = {"key": stored.key, "state": "done", "reference": f"bench-{stored.key}", "done_at_ms": 1_700_000_000_000}
    if stored.action == Action.TRANSFER:
        body |= {"asset": request["asset"], "amount": request["amount"]}
    if stored.action == Action.EXCHANGE:
        sold, price = Decimal(request["sell_amount"]), Decimal(50_000)
        bought = (sold / price if request["sell_asset"] == "USDT" else sold * price).quantize(Decimal("0.000001"))
        body |= {"sell_asset": request["sell_asset"], "sold": str(sold), "buy_asset": request["buy_asset"]}
        body |= {"bought": str(bought), "price": str(price), "min_lot": "0.000001"}
    return json.dumps(body).encode()


class SleepingCounterparty:
    """All three counterparties in one."""

    def call(self, stored: StoredRequest, clock: SigningClock) -> Done[Any]:
        """Takes its time, then has done it."""
        clock.timestamp_ms()
        time.sleep(CALL_MS / 1000)
        body = answer(stored)
        return Done(body, read_result(stored.action, body))

    adjust = transfer = exchange = call

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Any] | None:
        """Knows every key: whatever was sent was done."""
        return self.call(stored, clock)


def sleeping_gateways() -> Gateways:
    """The factory that GATEWAY_KIND names in the benchmark's workers."""
    counterparty = SleepingCounterparty()
    return Gateways(counter=counterparty, fund=counterparty, trading=counterparty)
