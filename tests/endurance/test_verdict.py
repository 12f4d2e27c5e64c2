"""The comparison reports every order that isn't stored as the counter committed it."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.endurance import kills
from tests.endurance.channel import Channel, statements
from tests.endurance.counter import Committer, Table
from tests.endurance.lossy import Outcome
from tests.endurance.verdict import CONTENTS, Comparison, Latency, StoredOrder, compare


def committed(order_id: str = "E1", **fate: bool) -> dict[str, Any]:
    row = {"order_id": order_id, "user_id": "7", "shard": 1, "sequence": "3", "contract_id": "C", "direction": "OPEN", "asset": "BTC"}
    row |= {"quantity": "1.500000000000000000", "quoted_usdt": "90.25", "instrument": "I", "created_ms": 1_000}
    return {"row": row, "committed_ms": 1_000.0, "dropped": False, "delayed": False, **fate}


def held(order_id: str = "E1", *, quantity: str = "1.5", received_ms: float = 1_100.0) -> StoredOrder:
    contents = (order_id, "7", "1", "3", "C", "OPEN", "BTC", Decimal(quantity).normalize(), Decimal("90.25"), "I", "1000")
    assert len(contents) == len(CONTENTS)
    return StoredOrder(contents, "kafka", received_ms, clearings=1, operations=1)


def found(order: StoredOrder | None) -> Comparison:
    return compare([committed()], {} if order is None else {order.contents[0]: order})


def test_the_same_order_however_it_is_printed_is_fine() -> None:
    assert found(held()).counts == {}


def test_an_order_that_is_not_there_is_missing() -> None:
    assert found(None).wrong == {"missing": ["E1"]}


def test_other_contents_are_seen() -> None:
    assert found(held(quantity="1.6")).counts == {"other contents": 1}


def test_an_order_that_was_never_committed_is_extra() -> None:
    assert compare([], {"E9": held("E9")}).wrong == {"extra": ["E9"]}


def test_two_clearings_of_an_order_are_seen() -> None:
    assert list(found(replace(held(), clearings=2)).counts) == ["not one clearing with one operation"]


def test_a_dropped_order_counts_by_the_time_it_took() -> None:
    late = compare([committed(dropped=True)], {"E1": held(received_ms=8_000.0)})

    assert late.dropped == Latency(1, 7_000.0, 7_000.0, 7_000.0)
    assert Outcome(1, 1, 1.0, queued=1, read=True, comparison=late).failures == ["a dropped order was found only 7,000 ms after its commit"]


def test_more_than_one_in_a_hundred_sent_again_fails() -> None:
    assert Outcome(1, 1, 1.0, queued=1_000, messages=1_000, resent=9, read=True).failures == []
    assert Outcome(1, 1, 1.0, queued=1_000, messages=1_000, resent=10, read=True).failures == ["10 of 1,000 queued orders sent again"]
    assert Outcome(1, 1, 1.0, queued=1_000, messages=1_010, read=True).failures == ["10 of 1,000 queued orders sent again"]


def test_a_log_that_was_not_read_to_its_end_fails() -> None:
    assert Outcome(1, 1, 1.0).failures == ["the consumer hasn't read the whole log"]


@pytest.mark.parametrize(("trial", "placed", "failures"), [(0, 500, 0), (300, 800, 0), (300, 500, 2)])
def test_orders_of_the_trial_count_for_the_audit(trial: int, placed: int, failures: int) -> None:
    outcome = kills.Outcome(500, 32.0, 1, 64.0, trial, audit_exit_code=0, audit={"placed": placed}, sources={"kafka": placed})

    assert len(outcome.failures) == failures


def test_a_counter_whose_thread_fails_says_why() -> None:
    plan = statements(1, 10, Channel(drop=0.0))
    committer = Committer(Table(), plan, BrokenProducer(), "topic", rate=1_000.0)

    with pytest.raises(RuntimeError, match="no broker"):
        committer.run()

    assert (committer.error, committer.done) == ("RuntimeError: no broker", False)


class BrokenProducer:
    """Kafka's client without a Kafka."""

    def send(self, *_: object, **__: object) -> None:
        raise RuntimeError("no broker")
