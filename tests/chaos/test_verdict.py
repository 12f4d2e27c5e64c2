"""One violation of any kind, and the run has failed."""

from typing import Any

import pytest

from tests.chaos.recovery import summary
from tests.chaos.verdict import Verdict, judge

NONE = {"count": 0, "examples": []}
ONE = {"count": 1, "examples": ["x"]}


def audit(**fields: Any) -> dict[str, Any]:
    good = dict.fromkeys(("missing", "unplaced", "doubled", "out_of_order", "broken"), NONE)
    return {**good, "balanced": True, "placed": 10, "by_state": {"cleared": 10}, **fields}


def judged(found: dict[str, Any], halted: list[str] | None = None, *, faulty_answers: int | None = 5) -> Verdict:
    return judge(found, halted or [], orders=10, faulty_answers=faulty_answers)


class TestVerdict:
    def test_a_good_run_passes(self) -> None:
        assert judged(audit()).passed

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"missing": ONE}, "lost"),
            ({"placed": 9}, "not_placed"),
            ({"unplaced": ONE}, "unplaced"),
            ({"doubled": ONE}, "doubled"),
            ({"out_of_order": ONE}, "out_of_order"),
            ({"broken": ONE}, "rule_12"),
            ({"balanced": False}, "rule_12"),
            ({"by_state": {"cleared": 9, "parked": 1}}, "parked_wrongly"),
            ({"by_state": {"cleared": 9, "voided": 1}}, "parked_wrongly"),
            ({"by_state": {"cleared": 9, "unknown": 1}}, "stranded"),
            ({"by_state": {"cleared": 9, "queued": 1}}, "stranded"),
        ],
    )
    def test_each_violation_fails_it(self, fields: dict[str, Any], name: str) -> None:
        verdict = judged(audit(**fields))

        assert not verdict.passed
        assert {key for key, value in verdict.as_json().items() if value} == {name}

    def test_a_process_that_ended_for_good_fails_it(self) -> None:
        verdict = judged(audit(), ["consumer"])

        assert not verdict.passed
        assert verdict.as_json()["halted"] == ["consumer"]

    def test_a_run_without_a_faulty_answer_fails_where_some_were_to_come(self) -> None:
        assert judged(audit(), faulty_answers=0).as_json()["no_faults"]
        assert not judged(audit(), faulty_answers=0).passed
        assert judged(audit(), faulty_answers=None).passed


class TestFigures:
    def test_few_values_have_a_maximum_and_many_a_99th_percentile_too_and_none_say_so(self) -> None:
        found = summary({"few": [float(ms) for ms in range(99)], "many": [float(ms) for ms in range(100)], "none": []})

        assert found == {
            "none": {"count": 0},
            "few": {"count": 99, "p50_ms": 49.0, "max_ms": 98.0},
            "many": {"count": 100, "p50_ms": 49.0, "p99_ms": 98.0, "max_ms": 99.0},
        }
