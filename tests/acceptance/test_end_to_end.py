"""Real processes, real servers: every order clears, whatever is killed on the way, and the audit
finds nothing.
"""

import signal

import pytest

from stack.rundir import CHECKOUT
from tests.support.service import LiveService, live_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


class TestGoodDay:
    def test_mixed_orders_of_many_users_clear(self, service: LiveService) -> None:
        service.place(200, users=20)

        report = service.audit()

        assert (report["placed"], report["cleared"], report["missing"]["count"], report["doubled"]["count"]) == (200, 200, 0, 0)

    def test_the_topic_read_again_from_its_beginning_changes_nothing(self, service: LiveService) -> None:
        before = service.audit()

        service.manage("consume_binlog", "--group=look-again", "--until-idle=2", KAFKA_INSTANCE_ID="")

        after = service.audit()
        assert (after["accepted"], after["cleared"], after["doubled"]["count"]) == (before["accepted"], before["cleared"], 0)


class TestKilled:
    def test_a_worker_killed_in_the_middle(self, service: LiveService) -> None:
        with service.placing(200, users=20, seed=2):
            wait_until(lambda: service.cleared() > 0)
            service.kill("worker")

        service.audit()

    def test_a_worker_told_to_stop_in_the_middle(self, service: LiveService) -> None:
        with service.placing(150, users=20, seed=3):
            wait_until(lambda: service.broker().ping())
            service.kill("worker", signal.SIGTERM)

        service.audit()

    def test_a_consumer_killed_in_the_middle(self, service: LiveService) -> None:
        with service.placing(150, users=20, seed=4):
            service.kill("consumer")

        service.audit()

    def test_beat_and_the_ops_worker_killed(self, service: LiveService) -> None:
        with service.placing(100, users=10, seed=5):
            service.kill("beat")
            service.kill("worker-ops")

        service.audit()

    def test_a_broker_that_was_wiped(self, service: LiveService) -> None:
        with service.placing(150, users=20, seed=6):
            for _ in range(5):
                service.broker().flushall()

        service.audit()


class TestFaults:
    def test_answers_lost_after_the_effect(self, service: LiveService) -> None:
        service.set_fault(counterparty="*", operation="*", kind="apply_then_reset", count=6)
        service.set_fault(counterparty="*", operation="*", kind="apply_then_5xx", status=502, count=10)
        service.set_fault(counterparty="*", operation="*", kind="garbage", count=10)

        service.place(60, users=10, seed=7)

        service.audit()

    def test_partial_executions(self, service: LiveService) -> None:
        service.set_fault(counterparty="trading", operation="exchange", kind="partial", fraction="0.6", count=2)

        service.place(20, users=20, seed=8)

        service.audit()


class TestPlainChain:
    def test_the_comparison_setting_clears_as_well(self) -> None:
        with live_service(CHECKOUT / ".run" / "acceptance-plain", CLEARING_CONTINUE_IN_PLACE="false") as service:
            service.place(50, users=10)

            assert service.audit()["cleared"] == 50
