import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.http import HttpAnswer
from clearing.gateways import (
    Action,
    Adjusted,
    Adjustment,
    Counterparty,
    Exchange,
    Exchanged,
    StoredRequest,
    Transfer,
    Transferred,
    UnknownOutcome,
    answers,
    read_result,
)
from clearing.gateways.answers import read_adjusted, read_exchanged, read_status, read_transferred
from tests.gateways.test_http import NOW, Scripted, gateways

KEY = "O1:3"
HEAD = {"key": KEY, "state": "done", "reference": "r-17", "done_at_ms": 1_700_000_000_000}
TRANSFERRED = {**HEAD, "asset": "USDT", "amount": "3050.120000"}
EXCHANGED = {**HEAD, "sell_asset": "USDT", "sold": "99.5", "buy_asset": "BTC", "bought": "0.00163114", "price": "61000.25", "min_lot": "0.01"}

ADJUSTMENT = Adjustment(order_id="O1", user_id="1", contract_id="C", direction="OPEN", asset="BTC", quantity=Decimal(1), usdt=Decimal(2))
TRANSFER = Transfer(order_id="O1", asset="USDT", amount=Decimal("3050.12"), source="system", destination="fund")
EXCHANGE = Exchange(order_id="O1", sell_asset="USDT", sell_amount=Decimal(100), buy_asset="BTC")
ADJUST = StoredRequest(Counterparty.COUNTER, Action.ADJUST, KEY, ADJUSTMENT.encode(KEY))
MOVE = StoredRequest(Counterparty.FUND, Action.TRANSFER, KEY, TRANSFER.encode(KEY))
TRADE = StoredRequest(Counterparty.TRADING, Action.EXCHANGE, KEY, EXCHANGE.encode(KEY))

NOT_AN_AMOUNT = ["-1", "NaN", "Infinity", "1e3", "", " 1", "1\n", "1,5", "+1", ".5", "1.", "٣", "1" * 19, 1, 1.5, None, True, ["1"]]


def raw(fields: dict[str, Any], **changed: Any) -> bytes:
    return json.dumps({**fields, **changed}).encode()


def without(fields: dict[str, Any], name: str) -> bytes:
    return json.dumps({key: value for key, value in fields.items() if key != name}).encode()


class TestReading:
    def test_an_adjustment(self) -> None:
        assert read_adjusted(ADJUST, raw(HEAD)) == Adjusted("r-17", 1_700_000_000_000)

    def test_a_transfer_whose_amount_is_written_otherwise(self) -> None:
        assert read_transferred(MOVE, raw(TRANSFERRED)) == Transferred("r-17", 1_700_000_000_000, "USDT", Decimal("3050.12"))

    def test_a_transfer_that_repeats_the_accounts(self) -> None:
        assert read_transferred(MOVE, raw(TRANSFERRED, source="system", destination="fund")).reference == "r-17"

    def test_an_adjustment_that_repeats_the_amounts_written_otherwise(self) -> None:
        assert read_adjusted(ADJUST, raw(HEAD, asset="BTC", quantity="1.00000000", usdt="2.0")).reference == "r-17"

    def test_a_repeated_request_that_a_newer_release_wrote(self) -> None:
        stored = StoredRequest(Counterparty.COUNTER, Action.ADJUST, KEY, ADJUST.body[:-1] + b',"sequence":7}')

        assert read_adjusted(stored, raw(HEAD, quantity="1")).reference == "r-17"

    def test_a_kept_body_whatever_it_repeats(self) -> None:
        assert read_result(Action.TRANSFER, raw(TRANSFERRED, source=None)).reference == "r-17"

    def test_an_exchange(self) -> None:
        result = read_exchanged(TRADE, raw(EXCHANGED))

        assert (result.sold, result.bought) == (Decimal("99.5"), Decimal("0.00163114"))
        assert (result.price, result.min_lot) == (Decimal("61000.25"), Decimal("0.01"))
        assert (result.sell_asset, result.buy_asset) == ("USDT", "BTC")

    def test_lets_fields_pass_that_it_doesnt_know(self) -> None:
        assert read_adjusted(ADJUST, raw(HEAD, fee="0.1")).reference == "r-17"

    @pytest.mark.parametrize(
        ("action", "fields", "kind"), [("adjust", HEAD, Adjusted), ("transfer", TRANSFERRED, Transferred), ("exchange", EXCHANGED, Exchanged)]
    )
    def test_a_body_back_from_the_database(self, action: str, fields: dict[str, Any], kind: type) -> None:
        assert isinstance(read_result(Action(action), raw(fields)), kind)


class TestNamedTwice:
    """Readers differ in which of two values they take."""

    @pytest.mark.parametrize(
        "body",
        [
            raw(EXCHANGED)[:-1] + b', "bought": "9.9"}',
            raw(EXCHANGED)[:-1] + b',"bought" : "9.9"}',
            raw(EXCHANGED)[:-1] + b',"bought"\n:"9.9"}',
            raw(EXCHANGED)[:-1] + b',"\\u0062ought":"9.9"}',
            raw(EXCHANGED)[:-1] + b', "new": {"a": 1, "a": 2}}',
            raw(EXCHANGED).replace(b'"bought": "0.00163114"', b'"bought":"0.00163114","bought": "0.00163114"'),
            b'{"bought": "9.9", "note": ":x", ' + raw(EXCHANGED)[1:],
        ],
    )
    def test_is_unreadable(self, body: bytes) -> None:
        with pytest.raises(UnknownOutcome, match="names a field twice"):
            read_exchanged(TRADE, body)

    def test_a_status_is_unreadable_as_well(self) -> None:
        with pytest.raises(UnknownOutcome, match="names a field twice"):
            read_status(TRADE, b'{"key": "O1:3", "state": "in_progress", "retry_after_ms": 1, "retry_after_ms": 99999999}')

    @pytest.mark.parametrize("note", ["", ":", '":', '" :', 'a "b": c', "\n", "\\"])
    def test_no_text_is_taken_for_a_name(self, note: str) -> None:
        assert read_exchanged(TRADE, raw(EXCHANGED, note=note, more={"bought": "1"})).bought == Decimal("0.00163114")

    @given(
        st.lists(st.tuples(st.sampled_from(["a", "b", ":", '"']), st.text(':" ab\n\\', max_size=3)), max_size=4), st.sampled_from([":", " :", ": "])
    )
    def test_every_flat_object_is_judged_rightly(self, fields: list[tuple[str, str]], colon: str) -> None:
        body = "{" + ",".join(json.dumps(name) + colon + json.dumps(value) for name, value in fields) + "}"
        twice = len({name for name, _ in fields}) < len(fields)

        assert not (twice and answers._names_once(body.encode()))


class TestUnreadable:
    @pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"<html>", b"\xff\xfe", b'{"key":"O1:3"}', b"[" * 100_000, b'"\\ud800"'])
    @pytest.mark.parametrize("action", list(Action))
    def test_is_what_is_no_answer_at_all(self, body: bytes, action: Action) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_result(action, body)

    @pytest.mark.parametrize("name", list(EXCHANGED))
    def test_is_an_exchange_without(self, name: str) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_exchanged(TRADE, without(EXCHANGED, name))

    @pytest.mark.parametrize("name", list(TRANSFERRED))
    def test_is_a_transfer_without(self, name: str) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_transferred(MOVE, without(TRANSFERRED, name))

    @pytest.mark.parametrize("amount", NOT_AN_AMOUNT)
    @pytest.mark.parametrize("name", ["sold", "bought", "price", "min_lot"])
    def test_is_an_amount_that_is_none(self, name: str, amount: Any) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_exchanged(TRADE, raw(EXCHANGED, **{name: amount}))

    @pytest.mark.parametrize(
        "changed",
        [
            {"key": "O2:3"},
            {"state": "in_progress"},
            {"sell_asset": "BTC"},
            {"buy_asset": "ETH"},
            {"sold": "100.000001"},
            {"reference": ""},
            {"reference": "a\x00b"},
            {"done_at_ms": -1},
            {"done_at_ms": "1700000000000"},
        ],
    )
    def test_is_an_exchange_that_answers_something_else(self, changed: dict[str, Any]) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_exchanged(TRADE, raw(EXCHANGED, **changed))

    @pytest.mark.parametrize("changed", [{"key": "O2:3"}, {"asset": "BTC"}, {"amount": "3050.11"}, {"amount": "3050.13"}])
    def test_is_a_transfer_that_answers_something_else(self, changed: dict[str, Any]) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_transferred(MOVE, raw(TRANSFERRED, **changed))

    @pytest.mark.parametrize(
        "changed",
        [{"source": "fund"}, {"destination": "user:666"}, {"destination": ""}, {"destination": None}, {"source": "system", "destination": "system"}],
    )
    def test_is_a_transfer_between_other_accounts(self, changed: dict[str, Any]) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_transferred(MOVE, raw(TRANSFERRED, **changed))

    @pytest.mark.parametrize("changed", [{"asset": "ETH"}, {"quantity": "1.1"}, {"usdt": "2.000001"}, {"usdt": 2}, {"quantity": None}])
    def test_is_an_adjustment_over_something_else(self, changed: dict[str, Any]) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_adjusted(ADJUST, raw(HEAD, **changed))

    def test_is_a_status_whose_result_names_another_account(self) -> None:
        client = Scripted(
            HttpAnswer(200, "application/json", None, raw({"key": KEY, "state": "done", "result": {**TRANSFERRED, "destination": "user:666"}}))
        )

        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            gateways(client).query(MOVE, NOW)

    def test_is_an_adjustment_of_another_key(self) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_adjusted(ADJUST, raw(HEAD, key="O2:3"))

    @pytest.mark.parametrize(
        "fields",
        [
            {"key": "O2:3", "state": "done", "result": HEAD},
            {"key": KEY, "state": "lost", "result": HEAD},
            {"key": KEY, "state": "done"},
            {"key": KEY, "state": "in_progress", "retry_after_ms": -1},
            {"key": KEY, "state": "rejected", "status": "400", "problem": {}},
            {"key": KEY, "result": HEAD},
        ],
    )
    def test_is_a_status_that_the_contract_doesnt_have(self, fields: dict[str, Any]) -> None:
        with pytest.raises(UnknownOutcome, match="unreadable_body"):
            read_status(ADJUST, json.dumps(fields).encode())

    @given(st.binary(max_size=300))
    def test_is_whatever_else_may_come(self, body: bytes) -> None:
        with pytest.raises(UnknownOutcome) as unreadable:
            read_exchanged(TRADE, body)

        assert "\x00" not in unreadable.value.detail
