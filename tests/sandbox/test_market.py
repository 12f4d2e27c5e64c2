from decimal import Decimal

from django.conf import settings

from sandbox.market import STEPS_MAX, Market

START_MS = 1_795_356_880_000


def walk(seed: int, minutes: int, volatility_bps: int = 2) -> list[Decimal]:
    market = Market(seed=seed, volatility_bps=Decimal(volatility_bps), now_ms=START_MS)
    return [market.price("BTC", START_MS + minute * 60_000) for minute in range(minutes)]


class TestWalk:
    def test_the_same_seed_walks_the_same_way(self) -> None:
        assert walk(1, 30) == walk(1, 30)
        assert walk(1, 30) != walk(2, 30)

    def test_it_moves_but_stays_sane(self) -> None:
        prices = walk(3, 24 * 60 // 10, volatility_bps=5)

        assert len(set(prices)) > 100
        assert all(30_000 < price < 120_000 for price in prices)

    def test_it_stays_within_the_service_s_soft_bound_however_late_an_order_comes(self) -> None:
        """Quoted at one end of the band with the spread, executed at the other with the slip."""
        prices = walk(4, 600, volatility_bps=50)

        lowest, highest, factor = min(prices), max(prices), Decimal("1.0022")
        assert highest / lowest > Decimal("1.019")  # it has been at both ends
        assert (highest / lowest * factor - 1) * 10_000 < settings.CLEARING_MAX_SLIPPAGE_BPS

    def test_a_long_sleep_costs_a_bounded_walk(self) -> None:
        market = Market(seed=1, volatility_bps=Decimal(2), now_ms=START_MS)

        price = market.price("ETH", START_MS + 10**10)

        assert 1_000 < price < 10_000
        assert STEPS_MAX < 10**4

    def test_time_that_goes_back_changes_nothing(self) -> None:
        market = Market(seed=1, volatility_bps=Decimal(2), now_ms=START_MS)

        assert market.price("BTC", START_MS - 5_000) == market.price("BTC", START_MS)


class TestExchange:
    def test_it_executes_near_the_price_and_cuts_downwards(self) -> None:
        market = Market(seed=1, volatility_bps=Decimal(2), now_ms=START_MS)
        price = market.price("BTC", START_MS)

        deal = market.exchange("USDT", Decimal(1000), "BTC", now_ms=START_MS)

        assert abs(deal.price / price - 1) < Decimal("0.0003")
        assert deal.bought <= deal.sold / deal.price
        assert deal.bought.as_tuple().exponent == -8

    def test_a_tiny_fraction_still_executes_one_lot(self) -> None:
        market = Market(seed=1, volatility_bps=Decimal(2), now_ms=START_MS)

        deal = market.exchange("BTC", Decimal("0.00001"), "USDT", now_ms=START_MS, fraction=Decimal("0.01"))

        assert deal.sold == deal.min_lot
