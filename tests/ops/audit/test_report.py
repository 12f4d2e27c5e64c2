"""The verdict: what fails an audit, and how it is told."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ops.audit.database import parked_spans
from ops.audit.facts import Books, Effect, HeldOrder, Placed
from ops.audit.report import Report, judge, latency
from ops.audit.steps import expected_residue
from ops.audit.text import audit_lines

PLACED = Placed("o-1", "1001", "OPEN", "BTC", Decimal("0.05"), Decimal(3000), 1_000)
HELD = HeldOrder(
    order_id="o-1",
    user_id="1001",
    contract_id="c-1",
    place=(1_000, 0, 1),
    state="cleared",
    late=False,
    accepted_ms=1_020,
    started_ms=1_030,
    cleared_ms=1_100,
    slippage_usdt=Decimal("-12.00000000"),
)
EXCHANGED = Effect("o-1", "1001", "o-1:3", sold=Decimal(3000), bought=Decimal("0.0498"))
EFFECTS = (Effect("o-1", "1001", "o-1:1"), Effect("o-1", "1001", "o-1:2"), EXCHANGED, Effect("o-1", "1001", "o-1:4"))
RIGHT = Books(placed={"o-1": PLACED}, held={"o-1": HELD}, effects=EFFECTS, residues={"o-1": expected_residue(PLACED, EFFECTS)}, balanced=True)


def judged(**changes: Any) -> Report:
    return judge(replace(RIGHT, **changes))


class TestVerdict:
    def test_a_cleared_order_passes(self) -> None:
        report = judged()

        assert (report.passed, report.all_cleared, report.by_state) == (True, True, {"cleared": 1})
        assert report.slippage_ledger_usdt == report.slippage_stored_usdt == Decimal("-12.00000000")
        assert (report.to_accepted.p50_ms, report.to_cleared.p99_ms) == (20, 100)

    def test_an_order_that_never_came_in_is_missing(self) -> None:
        report = judged(held={}, effects=())

        assert (report.passed, report.missing) == (False, ["o-1"])

    def test_one_that_is_in_flight_fails_nothing_but_is_not_cleared(self) -> None:
        report = judged(held={"o-1": replace(HELD, state="running", cleared_ms=None)}, effects=EFFECTS[:2], residues={})

        assert (report.passed, report.all_cleared, report.by_state) == (True, False, {"running": 1})

    def test_one_that_people_voided_is_not_waited_for(self) -> None:
        report = judged(held={"o-1": replace(HELD, state="voided", cleared_ms=None)}, effects=EFFECTS[:2], residues={})

        assert (report.passed, report.all_cleared, report.voided) == (True, True, 1)
        assert "1 voided by people" in audit_lines(report, must_clear=True)[-1]

    def test_a_doubled_operation_fails_also_of_an_order_in_flight(self) -> None:
        report = judged(held={"o-1": replace(HELD, state="running")}, effects=(*EFFECTS[:2], EFFECTS[1]))

        assert (report.passed, report.doubled) == (False, ["o-1:2"])

    def test_a_residue_that_is_off_fails(self) -> None:
        report = judged(residues={"o-1": {**RIGHT.residues["o-1"], ("owed:1001", "USDT"): Decimal("0.000001")}})

        assert not report.passed
        assert report.broken == {"o-1": ["owed:1001 USDT: 0.000001 instead of 0"]}

    def test_an_order_that_was_never_placed_fails(self) -> None:
        report = judged(placed={})

        assert (report.passed, report.unplaced) == (False, ["o-1"])

    def test_one_that_was_placed_while_the_audit_read_does_not(self) -> None:
        report = judged(placed={}, placed_later=frozenset({"o-1"}))

        assert (report.passed, report.accepted) == (True, 0)

    def test_a_ledger_that_does_not_balance_fails(self) -> None:
        assert not judged(balanced=False).passed


class TestTelling:
    def test_lines_end_with_the_verdict(self) -> None:
        assert audit_lines(judged())[-1].startswith("PASSED: 1 orders cleared")
        assert audit_lines(judged(balanced=False))[-1].startswith("FAILED")

    def test_orders_in_flight_fail_only_where_all_must_be_cleared(self) -> None:
        in_flight = judged(held={"o-1": replace(HELD, state="running", cleared_ms=None)}, effects=EFFECTS[:2], residues={})

        assert audit_lines(in_flight)[-1].startswith("PASSED")
        assert audit_lines(in_flight, must_clear=True)[-1].startswith("FAILED: 1 placed orders aren't cleared")

    def test_examples_are_cut(self) -> None:
        placed = {f"o-{n}": replace(PLACED, order_id=f"o-{n}") for n in range(30)}
        report = judged(placed=placed, held={}, effects=())

        assert "    … and 20 more" in audit_lines(report)
        assert report.as_json()["missing"]["count"] == 30
        assert len(report.as_json()["missing"]["examples"]) == 10

    def test_json_has_amounts_as_text(self) -> None:
        assert json.loads(json.dumps(judged().as_json()))["slippage_ledger_usdt"] == "-12.00000000"


class TestNumbers:
    @pytest.mark.parametrize(("values", "p50", "p99"), [([], None, None), ([5], 5, 5), (list(range(1, 101)), 50, 99), ([3, 1, 2], 2, 3)])
    def test_percentiles_are_of_the_nearest_rank(self, values: list[float], p50: float | None, p99: float | None) -> None:
        found = latency(values)

        assert (found.p50_ms, found.p99_ms) == (p50, p99)

    def test_spans_of_being_parked_come_from_the_history(self) -> None:
        assert parked_spans([(1, True, 10), (2, True, 11), (1, False, 20), (1, True, 30)]) == {1: ((10, 20), (30, None)), 2: ((11, None),)}
