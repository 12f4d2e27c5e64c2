"""The simulation itself: the same seed is the same run, a good engine passes, and a broken one
doesn't.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from clearing.gateways import counterparty_state, fake
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import requests
from clearing.store import recovery
from clearing.store.interventions import NotPossible
from orders.backfill.counter_api import Shards
from tests.simulation import counter, people, run, world
from tests.simulation.run import Found, simulate

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
ORDERS = 60
FUNCTION = re.compile(r"CREATE OR REPLACE FUNCTION clearing_promote\(.*?\n\$\$;", re.DOTALL)


@pytest.fixture(autouse=True)
def real_clock() -> Iterator[None]:
    """Gives the tests' database its clock and its sessions their limits back."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_functiondef('service_now'::regproc)")
        definition = cursor.fetchone()[0]
    yield
    with connection.cursor() as cursor:
        cursor.execute(definition)
    connection.dec_thread_sharing()
    connection.close()


@pytest.fixture
def promote() -> Iterator[Callable[[str, str], None]]:
    """Changes a text in the function that chooses a lane's next order."""
    source = FUNCTION.search((Path(settings.BASE_DIR) / "clearing/sql/01_common.sql").read_text())
    assert source is not None

    def change(old: str, new: str) -> None:
        assert old in source[0]
        with connection.cursor() as cursor:
            cursor.execute(source[0].replace(old, new))

    yield change
    with connection.cursor() as cursor:
        cursor.execute(source[0])


def shown(found: Found) -> dict[str, Any]:
    return {name: value for name, value in found.report().items() if name not in {"seconds", "orders_per_second"}}


def test_the_same_seed_is_the_same_run_and_a_good_engine_passes() -> None:
    first, second = shown(simulate(ORDERS, seed=5)), shown(simulate(ORDERS, seed=5))

    assert first == second
    assert first["passed"], first
    assert first["digest"] != shown(simulate(ORDERS, seed=6))["digest"]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Nothing breaks but this one thing, soon and often; and the end isn't waited for as long."""

    def set_up(trouble: str, **of_world: object) -> None:
        for name, value in {"TROUBLES": (trouble,), "BREAK_SECONDS": (0.1, 0.2), "QUIET_SECONDS_MAX": 60.0, **of_world}.items():
            monkeypatch.setattr(world, name, value)

    return set_up


class TestABrokenEngine:
    """Each of these takes one guard away."""

    def test_messages_that_are_gone_are_never_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recovery, "resend", lambda *_, **__: [])
        monkeypatch.setattr("tests.simulation.broker.LOST", 0.1)
        monkeypatch.setattr(world, "QUIET_SECONDS_MAX", 60.0)

        found = simulate(ORDERS, seed=5)

        assert found.judged.counts()["stranded"] > 0
        assert "queued" in "\n".join(found.history)

    def test_a_counterparty_that_forgets_its_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fake._Service, "_settled", lambda *_: None)

        assert simulate(ORDERS, seed=5).judged.counts()["doubled"] > 0

    def test_the_youngest_order_of_a_lane_goes_first(self, promote: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.simulation.world.USERS", 5)
        promote("ORDER BY c.created_ms, c.shard, c.sequence, c.id LIMIT 1", "ORDER BY c.created_ms DESC, c.id DESC LIMIT 1")

        assert simulate(ORDERS, seed=5).judged.counts()["out_of_order"] > 0

    def test_what_the_log_lost_is_never_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counter, "NOT_LOGGED", 0.1)
        monkeypatch.setattr(world, "QUIET_SECONDS_MAX", 60.0)
        monkeypatch.setattr(counter.Counter, "shards", lambda self: Shards((), self._now_ms()))

        found = simulate(ORDERS, seed=5)

        assert found.judged.counts()["lost"] > 0
        assert "is lost" in found.history[0]

    def test_a_breaker_that_never_closes_again(self, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        only("outage", OUTAGES=(Fault(kind=FaultKind.UNREACHABLE),), LONG_OUTAGE=0.0)
        monkeypatch.setattr(counterparty_state, "half_open", lambda *_, **__: False)

        found = simulate(ORDERS, seed=5)

        assert found.judged.breakers_opened > 0
        assert found.judged.counts()["stranded"] > 0

    def test_suspects_that_nobody_runs_alone(self, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        only("poison", POISON_DEATHS=(3, 3))
        monkeypatch.setattr(world, "ISOLATED_QUEUE", "another")

        assert simulate(ORDERS, seed=5).judged.counts()["stranded"] > 0

    def test_a_hold_that_nobody_can_release(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def approve(*_: object, **__: object) -> str:
            raise NotPossible("expired", "")

        monkeypatch.setattr(counter, "CHANGED", 0.1)
        monkeypatch.setattr(world, "QUIET_SECONDS_MAX", 60.0)
        monkeypatch.setattr(requests, "approve", approve)

        found = simulate(ORDERS, seed=5)

        assert found.judged.counts()["stranded"] > 0
        assert "contents_differ" in "\n".join(found.history)


class TestKeysThatTheCounterpartiesForget:
    """An answer is lost, and nobody answers for longer than keys are kept."""

    ORDERS = 40

    @pytest.fixture(autouse=True)
    def long_outage(self, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(people, "CURIOUS", 0.0)  # nobody finds out before
        faults = (Fault(kind=FaultKind.APPLY_THEN_TIMEOUT),)
        rare = {"ORDERS_PER_SECOND": 0.25, "BREAK_SECONDS": (4.0, 5.0), "QUIET_SECONDS_MAX": 150.0}
        only("outage", OUTAGES=faults, LONG_OUTAGE=1.0, LONG_OUTAGE_SECONDS=(95.0, 96.0), **rare)

    def test_people_confirm_what_was_done(self) -> None:
        found = simulate(self.ORDERS, seed=5)

        assert found.passed, found.history
        assert found.judged.parked["key_expired"] > 0
        assert found.world.people.done["approved: confirm_done"] > 0

    def test_sent_again_it_is_done_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "RETENTION_SECONDS", 10**6)

        assert simulate(self.ORDERS, seed=5).judged.counts()["doubled"] > 0
