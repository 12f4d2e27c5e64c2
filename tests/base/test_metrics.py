"""Metrics: what the paths count, and how several processes show one sum."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from base import metrics
from base.metrics import REGISTRY, Stage


class Name(StrEnum):
    FUND = "fund"
    TRANSFER = "transfer"


@dataclass(frozen=True)
class Clock:
    now_ms: int = 10_000
    measured_at: float = field(default_factory=lambda: clock_gettime(CLOCK_BOOTTIME))


@dataclass(frozen=True)
class Stored:
    counterparty: StrEnum = Name.FUND
    action: StrEnum = Name.TRANSFER


@dataclass(frozen=True)
class ClaimedStep:
    step: int = 2
    created_ms: int = 9_000
    queued_ms: int = 9_900
    started_ms: int = 10_000
    stored: Stored = field(default_factory=Stored)
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Tried:
    outcome: str = "done"
    asked: bool = False
    sent_at: float = 5.0
    answered_at: float = 5.25


def timed(stage: Stage) -> tuple[float, float]:
    """(count, sum in seconds) of a stage."""
    labels = {"stage": stage.value}
    return tuple(REGISTRY.get_sample_value(f"acceptance_stage_seconds_{kind}", labels) or 0.0 for kind in ("count", "sum"))  # type: ignore[return-value]


def grown(stage: Stage, before: tuple[float, float]) -> tuple[float, float]:
    now = timed(stage)
    return now[0] - before[0], round(now[1] - before[1], 3)


class TestStages:
    def test_a_claim_times_the_queue(self) -> None:
        before = timed(Stage.QUEUED_TO_CLAIMED)

        metrics.observe_claim(ClaimedStep())

        assert grown(Stage.QUEUED_TO_CLAIMED, before) == (1, 0.1)

    def test_a_first_claim_times_the_way_from_the_counter(self) -> None:
        before = timed(Stage.COUNTER_TO_CLAIMED)

        metrics.observe_claim(ClaimedStep())

        assert grown(Stage.COUNTER_TO_CLAIMED, before) == (1, 1.0)

    def test_a_later_claim_does_not(self) -> None:
        before = timed(Stage.COUNTER_TO_CLAIMED)

        metrics.observe_claim(ClaimedStep(started_ms=9_950))

        assert grown(Stage.COUNTER_TO_CLAIMED, before) == (0, 0)

    def test_clocks_that_disagree_make_zero(self) -> None:
        before = timed(Stage.COUNTER_TO_ACCEPTED)

        metrics.observe(Stage.COUNTER_TO_ACCEPTED, -40)

        assert grown(Stage.COUNTER_TO_ACCEPTED, before) == (1, 0)

    def test_cleared_is_timed_from_the_counter_and_from_the_claim(self) -> None:
        before = timed(Stage.COUNTER_TO_CLEARED), timed(Stage.CLAIMED_TO_CLEARED)

        metrics.observe_cleared(ClaimedStep(clock=Clock(measured_at=clock_gettime(CLOCK_BOOTTIME) - 200)))

        (_, whole), (_, claimed) = grown(Stage.COUNTER_TO_CLEARED, before[0]), grown(Stage.CLAIMED_TO_CLEARED, before[1])
        assert 201 <= whole < 260
        assert whole - claimed == pytest.approx(1.0, abs=0.01)


class TestAttempts:
    def attempts(self, action: str, outcome: str) -> float:
        labels = {"counterparty": "fund", "action": action, "outcome": outcome}
        return REGISTRY.get_sample_value("acceptance_attempts_total", labels) or 0.0

    def test_a_call_is_counted_by_outcome_and_timed_by_step(self) -> None:
        counted, before = self.attempts("transfer", "done"), timed(Stage.STEP_2)

        metrics.observe_attempt(ClaimedStep(), Tried())

        assert self.attempts("transfer", "done") == counted + 1
        assert grown(Stage.STEP_2, before) == (1, 0.25)

    def test_a_question_is_counted_as_one_and_not_timed_as_the_step(self) -> None:
        counted, before = self.attempts("ask", "unknown"), timed(Stage.STEP_2)

        metrics.observe_attempt(ClaimedStep(), Tried(outcome="unknown", asked=True))

        assert self.attempts("ask", "unknown") == counted + 1
        assert grown(Stage.STEP_2, before) == (0, 0)


class TestSharing:
    """With METRICS_DIR, each process of a machine shows the sums of all."""

    SHOW = "import django; django.setup(); from base import metrics, alarms; metrics.PUBLISH_FAILURES.inc(2); print(metrics.exposition().decode())"

    def run_process(self, folder: Path) -> dict[str, float]:
        environment = {**os.environ, "METRICS_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "acceptance_site.settings"}
        shown = subprocess.run([sys.executable, "-c", self.SHOW], env=environment, check=True, capture_output=True, text=True, timeout=60).stdout
        return {sample.name: sample.value for family in text_string_to_metric_families(shown) for sample in family.samples}

    def test_a_second_process_adds_to_what_the_first_one_left(self, tmp_path: Path) -> None:
        first = self.run_process(tmp_path / "metrics")
        second = self.run_process(tmp_path / "metrics")

        assert first["acceptance_publish_failures_total"] == 2
        assert second["acceptance_publish_failures_total"] == 4
