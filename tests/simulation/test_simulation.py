"""The simulation itself: the same seed is the same run, a good engine passes, and a broken one doesn't."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from clearing import store_recovery
from clearing.gateways import fake
from orders.interface import Shards
from tests.simulation import counter
from tests.simulation.run import Found, simulate

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
ORDERS = 120
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


class TestABrokenEngine:
    """Each of these takes one guard away."""

    def test_messages_that_are_gone_are_never_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_recovery, "resend", lambda *_, **__: [])
        monkeypatch.setattr("tests.simulation.broker.LOST", 0.1)

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
        monkeypatch.setattr(counter.Counter, "shards", lambda self: Shards((), self._now_ms()))

        found = simulate(ORDERS, seed=5)

        assert found.judged.counts()["lost"] > 0
        assert "is lost" in found.history[0]
