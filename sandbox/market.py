"""The market: a random walk for each coin, and what an exchange gets there. Prices are USDT per
coin.
"""

import math
import random
from decimal import Decimal
from typing import NamedTuple

from sandbox.money import COINS, cut

START = {"BTC": 61_000.0, "ETH": 3_300.0}
STEP_MS = 100
STEPS_MAX = 600  # a sandbox that slept for a week needn't walk every step of it
PULL = 0.0005  # towards the start, a step: keeps a long-running walk within a sane range
SLIP_BPS_MAX = 2.0
BAND = 0.01  # on either side of the start: with spread and slip no order's price leaves the service's soft bound (300 bps), however late it comes
CENT = Decimal("0.01")
MIN_LOTS = {"USDT": Decimal("0.01"), "BTC": Decimal("0.000001"), "ETH": Decimal("0.00001")}  # in units of the asset that is sold


class Deal(NamedTuple):
    sold: Decimal
    bought: Decimal
    price: Decimal
    min_lot: Decimal


class Market:
    """Prices that move with time; the same seed and the same moments of asking give the same
    prices.
    """

    def __init__(self, *, seed: int | None, volatility_bps: Decimal, now_ms: int) -> None:
        self._random = random.Random(seed)
        self._sigma = float(volatility_bps) / 10_000
        self._logs = dict.fromkeys(COINS, 0.0)  # log of price over start
        self._walked_ms = now_ms

    def price(self, coin: str, now_ms: int) -> Decimal:
        self._walk(now_ms)
        return self._quoted(START[coin] * math.exp(self._logs[coin]))

    def exchange(
        self, sell_asset: str, amount: Decimal, buy_asset: str, *, now_ms: int, fraction: Decimal | None = None, factor: Decimal = Decimal(1)
    ) -> Deal:
        """Executes at the market with a little slip of its own; `fraction` executes only that part,
        in whole lots; `factor` multiplies the price.
        """
        coin = buy_asset if sell_asset == "USDT" else sell_asset
        slip = self._random.uniform(-SLIP_BPS_MAX, SLIP_BPS_MAX) / 10_000
        price = self._quoted(float(self.price(coin, now_ms) * factor) * (1 + slip))
        lot = MIN_LOTS[sell_asset]
        sold = amount if fraction is None else max(lot, amount * fraction // lot * lot)
        bought = sold / price if sell_asset == "USDT" else sold * price
        return Deal(cut(sold, sell_asset), cut(bought, buy_asset), price, lot)

    def _walk(self, now_ms: int) -> None:
        steps = (now_ms - self._walked_ms) // STEP_MS
        if steps <= 0:
            return
        self._walked_ms += steps * STEP_MS
        for _ in range(min(steps, STEPS_MAX)):
            for coin in COINS:
                walked = self._logs[coin] * (1 - PULL) + self._random.gauss(0.0, self._sigma)
                self._logs[coin] = max(-BAND, min(BAND, walked))

    @staticmethod
    def _quoted(price: float) -> Decimal:
        return max(CENT, Decimal(price).quantize(CENT))
