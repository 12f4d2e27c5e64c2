"""Who says that an order is real: rows that the counter didn't write, whatever way they come
(design, rule 14).
"""

import json
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from orders.backfill.gap_pass import GapPass
from orders.backfill.replay import replay_quarantined
from orders.intake.authentic import Authority, canonical_text, mac
from orders.intake.classify import Item, Origin, read_row
from orders.intake.mapping import NewOrder, Rules, from_binlog, from_interface
from orders.models import Quarantined, Source, SyncOrder
from orders.stream import consumer as stream
from orders.stream.consumer import ExitCode
from sandbox import proof
from sandbox.storage import SyncOrderRow
from stack.rundir import CHECKOUT
from tests.orders.conftest import Topic
from tests.orders.consumers import running
from tests.orders.fakes import FakeClearings, order_ids, reasons
from tests.orders.messages import RULES, interface_row, message, read, row, updated
from tests.support.counter import OVERLAP, Counter
from tests.support.waiting import wait_until

KEY, OTHER = "the counter's key of these tests, a", "the counter's key of these tests, b"
STRICT = replace(RULES, authority=Authority({"a": KEY}))
VECTORS = json.loads((CHECKOUT / "docs/contracts/order-mac.json").read_text())
REFUSED = "refused:not_authentic"


def signed(order_id: str = "O1", *, key: str = KEY, key_id: str = "a", **changes: str | None) -> dict[str, Any]:
    """A row of Canal's with the counter's MAC."""
    made = row(order_id, **changes)
    return {**made, "mac": mac(mapped(made), key), "mac_key_id": key_id}


def mapped(made: dict[str, Any]) -> NewOrder:
    """The order of a row of Canal's, which has the direction by its number."""
    order = from_binlog({**made, "direction": {"1": "OPEN", "2": "CLOSE"}[made["direction"]]}, RULES)
    assert isinstance(order, NewOrder)
    return order


def forged(order_id: str = "O1", **changes: str | None) -> dict[str, Any]:
    """A row with a MAC that belongs to other contents."""
    return {**signed(order_id), **changes}


def strictly(*messages: bytes, rules: Rules = STRICT) -> list[Item]:
    return read(*messages, rules=rules)


@pytest.mark.parametrize("vector", VECTORS["rows"], ids=lambda vector: vector["about"])
class TestTheContractsExamples:
    def test_are_what_we_check(self, vector: dict[str, Any]) -> None:
        shown = {**vector["row"], "mac": vector["mac"], "mac_key_id": VECTORS["key_id"]}
        order = from_interface(shown, replace(RULES, authority=Authority({VECTORS["key_id"]: VECTORS["key"]})))

        assert isinstance(order, NewOrder)
        assert (canonical_text(order), mac(order, VECTORS["key"])) == (vector["text"], vector["mac"])

    def test_are_what_the_sandbox_makes(self, vector: dict[str, Any]) -> None:
        fields = {name: vector["row"].get(name) for name in SyncOrderRow._fields}
        made = SyncOrderRow(**{**fields, "status": "NEW"})

        assert proof.text_of(made) == vector["text"]
        assert proof.prover(VECTORS["key_id"], VECTORS["key"])(made) == {"mac": vector["mac"], "mac_key_id": VECTORS["key_id"]}


@pytest.mark.django_db(transaction=True)
class TestARowOfKafka:
    def test_of_the_counter_is_an_order_and_keeps_its_proof(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(strictly(message(signed())))

        stored = SyncOrder.objects.get()
        assert (result.accepted, stored.kind, stored.mac_key_id) == (1, "EXCHANGE", "a")
        assert stored.mac == signed()["mac"]

    @pytest.mark.parametrize(
        "made",
        [
            row(),
            forged(mac="0" * 64),
            forged(mac=None),
            forged(mac_key_id="b"),
            forged(mac_key_id=None),
            signed(key=OTHER),
            forged(quoted_usdt="30501.200000000000000000"),
            forged(user_id="666"),
            forged(direction="2"),
            forged(created_at="2026-01-02 03:04:05.679"),
            forged(shard="3"),
            {**signed("O1"), "order_id": "o1"},
            forged(instrument="BTC-20260327-60000-P"),
        ],
        ids=lambda made: str({name: value for name, value in made.items() if value != signed().get(name)})[:60],
    )
    def test_of_somebody_else_is_no_order_holds_nothing_and_is_told(self, clearings: FakeClearings, made: dict[str, Any]) -> None:
        clearings.ingest(strictly(message(signed("O1"))))

        with capture_logs() as lines:
            result = clearings.ingest(strictly(message(made), updated(made, status="NEW"), message(made, kind="DELETE")))

        assert (order_ids(), clearings.held, {reason for _, reason in reasons()}) == (["O1"], [], {REFUSED})
        assert (result.bad, len(result.not_authentic)) == (set(), 3)
        [alarm] = [line for line in lines if "alarm" in line]
        assert (alarm["alarm"], alarm["rows"]) == ("not_authentic", 3)

    def test_does_not_block_an_order_that_the_counter_makes_later(self, clearings: FakeClearings) -> None:
        """Tomorrow's ids, taken with other contents, or deleted ahead."""
        clearings.ingest(strictly(message(forged("NEXT", user_id="666")), message(row("NEXT"), kind="DELETE")))

        result = clearings.ingest(strictly(message(signed("NEXT", user_id="1001"))))

        assert (result.accepted, order_ids(), clearings.held) == (1, ["NEXT"], [])

    def test_does_not_hold_one_that_comes_in_by_a_replay(self, clearings: FakeClearings) -> None:
        """Refused while our key was wrong, and a forged one about it came behind it."""
        wrong = replace(RULES, authority=Authority({"a": OTHER}))
        clearings.ingest(strictly(message(signed("O1")), message(forged("O1", user_id="666")), rules=wrong))

        replay_quarantined(Quarantined.objects.earliest("offset"), STRICT, partial(clearings.ingest, source=Source.REPLAY))

        assert (order_ids(), clearings.held) == (["O1"], [])

    @pytest.mark.parametrize("changes", [{"kind": "GIFT"}, {"quantity": "1e5"}, {"order_id": "O2"}, {"asset": "DOGE"}], ids=str)
    def test_that_is_no_order_any_more_stops_none(self, clearings: FakeClearings, changes: dict[str, str]) -> None:
        clearings.ingest(strictly(message(signed("O1"))))

        clearings.ingest(strictly(updated({**signed("O1"), **changes}, **{name: signed("O1")[name] for name in changes})))

        assert clearings.held == []

    def test_that_takes_another_ones_id_away_stops_it_only_by_that_ones_own_row(self, clearings: FakeClearings) -> None:
        clearings.ingest(strictly(message(signed("O1")), message(signed("O2"))))

        clearings.ingest(strictly(updated(signed("O1"), order_id="O2")))

        assert clearings.held == []

    def test_that_the_counter_itself_changed_is_a_contradiction_as_ever(self, clearings: FakeClearings) -> None:
        clearings.ingest(strictly(message(signed("O1"))))

        clearings.ingest(strictly(updated(signed("O1", quantity="0.070000000000000000"), quantity="0.050000000000000000")))

        assert clearings.held == [("O1", "contents_differ")]

    def test_of_the_time_before_macs_needs_none(self, clearings: FakeClearings) -> None:
        order = mapped(row())
        since = partial(Authority, {"a": KEY})

        clearings.ingest(strictly(message(row("BEFORE")), rules=replace(RULES, authority=since(order.created_ms + 1))))
        clearings.ingest(strictly(message(row("AFTER")), rules=replace(RULES, authority=since(order.created_ms))))

        assert order_ids() == ["BEFORE"]

    def test_is_believed_by_each_of_two_keys(self, clearings: FakeClearings) -> None:
        rules = replace(RULES, authority=Authority({"a": KEY, "b": OTHER}))

        clearings.ingest(strictly(message(signed("O1")), message(signed("O2", key=OTHER, key_id="b")), rules=rules))

        assert order_ids() == ["O1", "O2"]


@pytest.mark.django_db(transaction=True)
class TestEveryOtherWayIn:
    def test_the_gap_pass(self, clearings: FakeClearings) -> None:
        counter = Counter()
        counter.commit("FALSE", RULES.since_ms + 1000)

        for _ in range(3):
            GapPass(counter, clearings.ingest_from_gap, STRICT, OVERLAP, 500).run()

        assert (order_ids(), reasons()) == ([], [("FALSE", REFUSED)])

    def test_a_row_of_the_interface_by_itself(self) -> None:
        item = read_row(interface_row(), Origin("gap:0", 0, 1, interface_row()), STRICT)

        assert getattr(item, "reason", "") == REFUSED

    def test_a_replay_of_what_was_refused(self, clearings: FakeClearings) -> None:
        clearings.ingest(strictly(message(row("FALSE"))))

        replay_quarantined(Quarantined.objects.get(), STRICT, partial(clearings.ingest, source=Source.REPLAY))

        assert order_ids() == []


@pytest.mark.django_db(transaction=True)
class TestTheConsumer:
    """What a topic writer sends mustn't stop it; a key that is wrong must."""

    @pytest.fixture
    def minute(self, monkeypatch: pytest.MonkeyPatch) -> float:
        monkeypatch.setattr(stream, "AUTHENTIC_SECONDS_MAX", 2.0)
        return 2.0

    def test_goes_on_through_a_thousand_forged_rows_beside_the_counters(self, topic: Topic, clearings: FakeClearings) -> None:
        topic.send(*(message(row(f"F{number}")) for number in range(1_000)), partition=0)
        topic.send(message(signed("O1")), partition=0)

        with running(clearings.ingest, read_rules=lambda: STRICT) as reader:
            wait_until(lambda: order_ids() == ["O1"], seconds=60)
            ended = reader.ended

        assert (ended, reader.ended) == (None, ExitCode.STOPPED)

    def test_ends_with_78_where_nothing_of_the_counters_comes_any_more(self, topic: Topic, clearings: FakeClearings, minute: float) -> None:
        with capture_logs() as lines, running(clearings.ingest, read_rules=lambda: STRICT) as reader:
            time.sleep(minute + 0.5)
            topic.send(*(message(row(f"F{number}")) for number in range(100)), partition=0)
            wait_until(lambda: reader.ended is not None, seconds=60)

        assert reader.ended == 78
        assert [line["alarm"] for line in lines if "alarm" in line and line["alarm"] != "not_authentic"] == ["intake_key_wrong", "intake_stopped"]


class TestSettings:
    def test_ask_for_none_outside_production(self, settings: Settings) -> None:
        settings.INTAKE_MAC = False

        assert Authority.from_settings() is None

    def test_do_not_show_the_keys(self) -> None:
        assert KEY not in repr(STRICT)
