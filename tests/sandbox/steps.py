"""The four steps of an order, as signed calls to a sandbox."""

import itertools
from collections.abc import Mapping
from typing import Any

from tests.support.sandbox import Reply, SandboxServer


class Users:
    """User ids that no other test of this process uses."""

    _numbers = itertools.count(70_001)

    @classmethod
    def fresh(cls) -> str:
        return str(next(cls._numbers))


def order_of(server: SandboxServer, user_id: str, direction: str = "OPEN", asset: str = "BTC", quantity: str = "0.05") -> dict[str, Any]:
    """Places an order; the receipt with what else its steps need to know."""
    receipt = server.place(user_id, direction, asset, quantity)
    return {**receipt, "user_id": user_id, "direction": direction, "asset": asset}


def adjustment(order: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
    names = ("order_id", "user_id", "contract_id", "direction", "asset", "quantity", "usdt")
    return {"key": key or f"{order['order_id']}:1", **{name: order[name] for name in names}}


def adjust(server: SandboxServer, order: Mapping[str, Any], key: str | None = None, **more: Any) -> Reply:
    return server.mutate("counter", "/v1/adjustments", adjustment(order, key), **more)


def transfer(server: SandboxServer, order: Mapping[str, Any], step: str, asset: str, amount: str, source: str, destination: str) -> Reply:
    fields = {"key": f"{order['order_id']}:{step}", "order_id": order["order_id"], "asset": asset, "amount": amount}
    return server.mutate("fund", "/v1/transfers", {**fields, "source": source, "destination": destination})


def exchange(server: SandboxServer, order: Mapping[str, Any], sell: str, amount: str, buy: str, step: str = "3", **more: Any) -> Reply:
    fields = {"key": f"{order['order_id']}:{step}", "order_id": order["order_id"], "sell_asset": sell, "sell_amount": amount, "buy_asset": buy}
    return server.mutate("trading", "/v1/exchanges", fields, **more)


def clear(server: SandboxServer, order: Mapping[str, Any]) -> dict[str, Any]:
    """All four steps; what the exchange answered."""
    opening = order["direction"] == "OPEN"
    sell, amount, buy = ("USDT", order["usdt"], order["asset"]) if opening else (order["asset"], order["quantity"], "USDT")
    replies = [adjust(server, order), transfer(server, order, "2", sell, amount, "system", "fund"), exchange(server, order, sell, amount, buy)]
    deal: dict[str, Any] = replies[-1].json
    if opening:
        replies.append(transfer(server, order, "4", buy, deal["bought"], "fund", "system"))
    else:
        replies.append(transfer(server, order, "4", "USDT", order["usdt"], "fund", f"user:{order['user_id']}"))
    assert [reply.status for reply in replies] == [200] * 4, replies
    return deal
