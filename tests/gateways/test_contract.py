"""One suite for the fake and for the sandbox over HTTP: what the service relies on
(docs/contracts/), clause by clause.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from clearing.gateways import (
    Action,
    ClaimEnded,
    Done,
    Exchanged,
    GatewayError,
    KeyReused,
    Rejected,
    Result,
    Retryable,
    StillPending,
    StoredRequest,
    Transferred,
    UnknownOutcome,
    read_result,
)
from clearing.policy.outcomes import Health
from tests.gateways.sides import EndedClock, Order, Side, WallClock

NOW = WallClock()
ALL = pytest.mark.parametrize("action", list(Action))
LOSES_THE_ANSWER = pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("apply_then_timeout", "timeout"),
        ("apply_then_reset", "connection_lost"),
        ("apply_then_5xx", "status_500"),
        ("garbage", "unreadable_body"),
    ],
)


@pytest.fixture
def order(side: Side) -> Order:
    return side.place()


def ask_until_done(side: Side, stored: StoredRequest) -> Done[Result]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            done = side.gateways.query(stored, NOW)
        except StillPending:
            time.sleep(0.02)
            continue
        assert done is not None
        return done
    raise AssertionError(f"{stored.key} was still in progress after 5 s")


class TestDone:
    @ALL
    def test_an_action_takes_effect_once(self, side: Side, order: Order, action: Action) -> None:
        stored = order.request(action)

        done = side.gateways.perform(stored, NOW)

        assert side.applied(order) == [stored.key]
        assert read_result(action, done.body) == done.result
        assert done.result.reference
        assert abs(done.result.done_at_ms - NOW.timestamp_ms()) < 60_000

    def test_a_transfer_confirms_asset_and_amount(self, side: Side, order: Order) -> None:
        result = side.gateways.perform(order.transfer("0.000001"), NOW).result

        assert isinstance(result, Transferred)
        assert (result.asset, result.amount) == ("USDT", Decimal("0.000001"))

    def test_an_answer_repeats_the_accounts_and_the_amounts(self, side: Side, order: Order) -> None:
        moved = json.loads(side.gateways.perform(order.transfer("0.000001"), NOW).body)
        adjusted = json.loads(side.gateways.perform(order.adjustment(), NOW).body)

        assert (moved["source"], moved["destination"]) == ("system", "fund")
        assert (adjusted["asset"], Decimal(adjusted["quantity"]), Decimal(adjusted["usdt"])) == ("BTC", order.quantity, order.usdt)

    def test_an_exchange_says_what_it_got_at_which_price(self, side: Side, order: Order) -> None:
        result = side.gateways.perform(order.exchange("100"), NOW).result

        assert isinstance(result, Exchanged)
        assert (result.sell_asset, result.sold, result.buy_asset) == ("USDT", Decimal(100), "BTC")
        assert result.bought == pytest.approx(result.sold / result.price, rel=Decimal("0.001"))
        assert result.bought == round(result.bought, 8)
        assert result.min_lot > 0

    @ALL
    def test_a_repeat_gets_the_same_bytes_and_no_second_effect(self, side: Side, order: Order, action: Action) -> None:
        stored = order.request(action)

        first, again = side.gateways.perform(stored, NOW), side.gateways.perform(stored, NOW)

        assert again == first
        assert side.applied(order) == [stored.key]

    def test_many_at_once_have_one_effect(self, side: Side, order: Order) -> None:
        stored = order.transfer()

        def call(_: int) -> bytes | str:
            try:
                return side.gateways.perform(stored, NOW).body
            except StillPending as pending:
                return pending.code

        with ThreadPoolExecutor(8) as pool:
            answers = set(pool.map(call, range(24)))

        assert len(answers - {"in_progress"}) == 1
        assert side.applied(order) == [stored.key]

    def test_two_keys_are_two_effects(self, side: Side, order: Order) -> None:
        part_1, part_2 = order.exchange("40"), order.exchange("60", key_suffix=".2")

        side.gateways.perform(part_1, NOW)
        side.gateways.perform(part_2, NOW)

        assert side.applied(order) == [part_1.key, part_2.key]

    def test_a_partial_execution_is_done_with_less(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.EXCHANGE, "partial", order, fraction="0.25")

        result = side.gateways.perform(order.exchange("100"), NOW).result

        assert isinstance(result, Exchanged)
        assert result.sold == pytest.approx(Decimal(25), abs=Decimal("0.01"))
        assert result.bought == pytest.approx(result.sold / result.price, rel=Decimal("0.001"))

    @pytest.mark.parametrize("factor", ["0.001", "1000"])
    def test_an_absurd_price_is_done_as_it_says(self, side: Side, order: Order, factor: str) -> None:
        side.goes_wrong(Action.EXCHANGE, "absurd_price", order, factor=factor)

        absurd = side.gateways.perform(order.exchange("100"), NOW).result
        usual = side.gateways.perform(order.exchange("100", ".2"), NOW).result

        assert isinstance(absurd, Exchanged)
        assert isinstance(usual, Exchanged)
        assert absurd.price / usual.price == pytest.approx(Decimal(factor), rel=Decimal("0.01"))
        assert absurd.sold / absurd.bought == pytest.approx(absurd.price, rel=Decimal("0.01"))


class TestKeys:
    def test_other_bytes_under_a_key_are_refused(self, side: Side, order: Order) -> None:
        side.gateways.perform(order.transfer("12.5"), NOW)

        with pytest.raises(KeyReused):
            side.gateways.perform(order.transfer("12.6"), NOW)

        assert len(side.applied(order)) == 1

    def test_a_key_that_was_never_sent_isnt_known(self, side: Side, order: Order) -> None:
        assert side.gateways.query(order.transfer(), NOW) is None

    @ALL
    def test_a_question_finds_what_was_done(self, side: Side, order: Order, action: Action) -> None:
        stored = order.request(action)
        done = side.gateways.perform(stored, NOW)

        assert side.gateways.query(stored, NOW) == done

    def test_a_key_may_carry_a_revision(self, side: Side, order: Order) -> None:
        stored = order.exchange(key_suffix=".2:r1")
        done = side.gateways.perform(stored, NOW)

        assert side.gateways.query(stored, NOW) == done


class TestRejected:
    def test_is_final_and_given_again_byte_for_byte(self, side: Side, order: Order) -> None:
        stored = order.exchange("0.000001")

        with pytest.raises(Rejected) as first:
            side.gateways.perform(stored, NOW)
        with pytest.raises(Rejected) as again:
            side.gateways.perform(stored, NOW)

        assert first.value.code == again.value.code == "below_min_lot"
        assert first.value.body == again.value.body
        assert side.applied(order) == []

    def test_is_told_to_whom_asks(self, side: Side, order: Order) -> None:
        stored = order.exchange("0.000001")
        with pytest.raises(Rejected) as rejected:
            side.gateways.perform(stored, NOW)

        with pytest.raises(Rejected) as told:
            side.gateways.query(stored, NOW)

        assert (told.value.code, told.value.body) == (rejected.value.code, rejected.value.body)

    @pytest.mark.parametrize(("status", "code"), [(400, "insufficient_funds"), (404, "account_unknown"), (410, "contract_closed")])
    def test_has_its_status_and_code(self, side: Side, order: Order, status: int, code: str) -> None:
        side.goes_wrong(Action.ADJUST, "refuse", order, status=status, code=code)

        with pytest.raises(Rejected) as rejected:
            side.gateways.perform(order.adjustment(), NOW)

        assert rejected.value.code == code

    def test_counts_only_with_a_code_that_the_contract_calls_final(self, side: Side, order: Order) -> None:
        """Another code may come from in between; the question for the key tells."""
        stored = order.transfer()
        side.goes_wrong(Action.TRANSFER, "refuse", order, status=400, code="moon_in_wrong_phase")

        with pytest.raises(UnknownOutcome, match="moon_in_wrong_phase"):
            side.gateways.perform(stored, NOW)
        with pytest.raises(Rejected, match="moon_in_wrong_phase"):
            side.gateways.query(stored, NOW)


class TestLostAnswers:
    @LOSES_THE_ANSWER
    @ALL
    def test_leave_the_outcome_unknown_until_the_question_finds_the_effect(
        self, side: Side, order: Order, action: Action, kind: str, code: str
    ) -> None:
        stored = order.request(action)
        side.goes_wrong(action, kind, order)

        with pytest.raises(UnknownOutcome) as unknown:
            side.gateways.perform(stored, NOW)
        found = side.gateways.query(stored, NOW)

        assert unknown.value.code == code
        assert found is not None
        assert side.applied(order) == [stored.key]

    @LOSES_THE_ANSWER
    def test_are_given_to_a_repeat(self, side: Side, order: Order, kind: str, code: str) -> None:
        stored = order.exchange()
        side.goes_wrong(Action.EXCHANGE, kind, order)
        with pytest.raises(UnknownOutcome, match=code):
            side.gateways.perform(stored, NOW)

        repeated = side.gateways.perform(stored, NOW)

        assert repeated == side.gateways.query(stored, NOW)
        assert side.applied(order) == [stored.key]

    @pytest.mark.parametrize(("kind", "fields"), [("reset", {}), ("status", {"status": 503})])
    def test_may_also_mean_that_nothing_happened(self, side: Side, order: Order, kind: str, fields: dict[str, int]) -> None:
        stored = order.transfer()
        side.goes_wrong(Action.TRANSFER, kind, order, **fields)

        with pytest.raises(UnknownOutcome):
            side.gateways.perform(stored, NOW)

        assert side.gateways.query(stored, NOW) is None
        side.gateways.perform(stored, NOW)
        assert side.applied(order) == [stored.key]

    def test_come_within_the_deadline(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.TRANSFER, "latency", order, latency_ms=15_000)
        started = time.monotonic()

        with pytest.raises(UnknownOutcome, match="timeout"):
            side.gateways.perform(order.transfer(), NOW)

        assert time.monotonic() - started < 10


class TestInProgress:
    def test_an_accepted_call_is_pending_until_it_is_done(self, side: Side, order: Order) -> None:
        stored = order.transfer()
        side.goes_wrong(Action.TRANSFER, "in_progress", order, latency_ms=300)

        with pytest.raises(StillPending) as accepted:
            side.gateways.perform(stored, NOW)
        with pytest.raises(StillPending):
            side.gateways.perform(stored, NOW)
        with pytest.raises(StillPending):
            side.gateways.query(stored, NOW)
        done = ask_until_done(side, stored)

        assert accepted.value.retry_after_ms == 300
        assert side.gateways.perform(stored, NOW) == done
        assert side.applied(order) == [stored.key]

    def test_other_bytes_are_refused_meanwhile(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.TRANSFER, "in_progress", order, latency_ms=300)
        with pytest.raises(StillPending):
            side.gateways.perform(order.transfer("1"), NOW)

        with pytest.raises(KeyReused):
            side.gateways.perform(order.transfer("2"), NOW)


class TestSurelyNotApplied:
    @ALL
    def test_without_a_connection(self, side: Side, order: Order, action: Action) -> None:
        with pytest.raises(Retryable) as refused:
            side.unreachable.perform(order.request(action), NOW)

        assert (refused.value.code, refused.value.counted) == ("connection_refused", True)

    def test_with_too_many_requests(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.TRANSFER, "status", order, status=429, code="too_many_requests", latency_ms=2_000)

        with pytest.raises(Retryable) as refused:
            side.gateways.perform(order.transfer(), NOW)

        assert (refused.value.code, refused.value.retry_after_ms, refused.value.counted) == ("too_many_requests", 2_000, False)
        assert side.gateways.query(order.transfer(), NOW) is None

    @pytest.mark.parametrize(("scope", "health"), [("", Health.LIMITING), ("all", Health.LIMITING_ALL)])
    def test_with_too_many_requests_of_whom(self, side: Side, order: Order, scope: str, health: Health) -> None:
        side.goes_wrong(Action.TRANSFER, "status", order, status=429, latency_ms=2_000, scope=scope)

        with pytest.raises(Retryable) as refused:
            side.gateways.perform(order.transfer(), NOW)

        assert refused.value.health == health

    def test_when_forbidden(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.TRANSFER, "status", order, status=403, code="forbidden")

        with pytest.raises(Retryable) as refused:
            side.gateways.perform(order.transfer(), NOW)

        assert (refused.value.code, refused.value.counted) == ("forbidden", False)


class TestSignatures:
    @pytest.mark.parametrize("offset_ms", [-60_000, 60_000])
    def test_a_stale_one_is_made_anew_in_place(self, side: Side, order: Order, offset_ms: int) -> None:
        stored = order.transfer()

        done = side.gateways.perform(stored, WallClock(offset_ms, 0))
        asked = side.gateways.query(stored, WallClock(offset_ms, 0))

        assert asked == done
        assert side.applied(order) == [stored.key]

    def test_one_that_stays_stale_is_surely_not_applied(self, side: Side, order: Order) -> None:
        with pytest.raises(Retryable) as refused:
            side.gateways.perform(order.transfer(), WallClock(-60_000))

        assert (refused.value.code, refused.value.counted) == ("signature_stale", False)
        assert side.applied(order) == []

    def test_a_server_that_calls_them_stale_is_asked_twice_at_most(self, side: Side, order: Order) -> None:
        side.goes_wrong(Action.TRANSFER, "stale", order, times=2)

        with pytest.raises(Retryable, match="signature_stale"):
            side.gateways.perform(order.transfer(), NOW)

        assert side.applied(order) == []
        assert side.gateways.perform(order.transfer(), NOW).result.reference

    def test_nothing_is_signed_once_the_claim_has_ended(self, side: Side, order: Order) -> None:
        for call in (side.gateways.perform, side.gateways.query):
            with pytest.raises(ClaimEnded):
                call(order.transfer(), EndedClock())

        assert side.applied(order) == []


class TestQuestions:
    @pytest.mark.parametrize(
        ("kind", "fields"),
        [
            ("reset", {}),
            ("garbage", {}),
            ("apply_then_timeout", {}),
            ("status", {"status": 500}),
            ("status", {"status": 429}),
            ("status", {"status": 403}),
            ("status", {"status": 404, "code": "not_here"}),
            ("status", {"status": 409}),
        ],
    )
    def test_without_a_usable_answer_leave_the_outcome_unknown(self, side: Side, order: Order, kind: str, fields: dict[str, Any]) -> None:
        stored = order.transfer()
        side.gateways.perform(stored, NOW)
        side.goes_wrong("status", kind, order, times=2, **fields)  # libcurl asks again by itself where a kept connection breaks

        with pytest.raises(GatewayError) as unanswered:
            side.gateways.query(stored, NOW)

        assert isinstance(unanswered.value, UnknownOutcome)

    def test_that_cant_be_put_leave_the_outcome_unknown(self, side: Side, order: Order) -> None:
        with pytest.raises(UnknownOutcome, match="connection_refused"):
            side.unreachable.query(order.transfer(), NOW)
