"""Alarms go to the webhook: signed, once, from the background; and whoever raises one is never kept
waiting.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from acceptance_site.configuration import EXIT_CONFIGURATION
from base import alarms, webhook
from base.http import AnswerLost, HttpAnswer, NotSent
from base.metrics import REGISTRY
from base.webhook import Webhook
from tests.base.raw_server import answer, answering, raw_server
from tests.support.settings import started_with

KEY = "the webhook's secret"


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("acceptance_alarm_webhook_total", {"result": result}) or 0.0


@dataclass
class Receiver:
    """Takes alarms as the test wants it; each answer is a status or an error to raise."""

    answers: list[int | Exception] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def request(self, method: str, path: str, *, body: bytes, deadline_ms: int, timestamp_ms: int) -> HttpAnswer:
        assert self.gate.wait(10)
        self.bodies.append(json.loads(body))
        told = self.answers.pop(0) if self.answers else 204
        if isinstance(told, Exception):
            raise told
        return HttpAnswer(told, "", None, b"")


def hook(receiver: Receiver, repeat_seconds: float = 60) -> Webhook:
    return Webhook(receiver, "/alarms", repeat_seconds=repeat_seconds, pauses=(0.01, 0.01))


class TestWhatIsSent:
    def test_the_alarm_with_its_context_time_and_id(self) -> None:
        receiver = Receiver()
        sender = hook(receiver)

        sender.offer("parked", "an order needs a person", {"order_id": "o-1", "step": 3})

        assert sender.flush()
        (body,) = receiver.bodies
        assert (body["code"], body["message"], body["context"]) == ("parked", "an order needs a person", {"order_id": "o-1", "step": 3})
        assert body["at"].endswith("+00:00")
        assert len(body["id"]) == 32

    def test_what_json_does_not_know_is_sent_as_text(self) -> None:
        receiver = Receiver()
        sender = hook(receiver)

        sender.offer("odd", "x", {"who": {1, 2}, "text": "\ud800"})

        assert sender.flush()
        assert receiver.bodies[0]["context"]["who"] == "{1, 2}"

    def test_a_repeat_about_the_same_order_is_not(self) -> None:
        receiver = Receiver()
        sender = hook(receiver)

        for order_id in ("o-1", "o-1", "o-2", "o-1"):
            sender.offer("parked", "m", {"order_id": order_id})
        sender.offer("contents_differ", "m", {"order_id": "o-1"})

        assert sender.flush()
        assert sorted((body["code"], body["context"]["order_id"]) for body in receiver.bodies) == [
            ("contents_differ", "o-1"),
            ("parked", "o-1"),
            ("parked", "o-2"),
        ]

    @pytest.mark.parametrize("other", [{"error_code": "key_expired"}, {"step": 4}])
    def test_another_parking_of_the_same_order_is(self, other: dict[str, object]) -> None:
        receiver = Receiver()
        sender = hook(receiver)
        first: dict[str, object] = {"order_id": "o-1", "error_code": "counterparty_rejected", "step": 1}

        sender.offer("parked", "m", first)
        sender.offer("parked", "m", first | other)

        assert sender.flush()
        assert [body["context"] for body in receiver.bodies] == [first, first | other]
        assert receiver.bodies[0]["id"] != receiver.bodies[1]["id"]

    def test_it_is_again_after_a_while(self) -> None:
        receiver = Receiver()
        sender = hook(receiver, repeat_seconds=0.05)
        sender.offer("parked", "m", {"order_id": "o-1"})
        assert sender.flush()

        deadline = time.monotonic() + 5
        while len(receiver.bodies) < 2 and time.monotonic() < deadline:
            sender.offer("parked", "m", {"order_id": "o-1"})
            assert sender.flush()

        assert len(receiver.bodies) == 2

    def test_two_processes_that_notice_the_same_give_it_the_same_id(self) -> None:
        receiver = Receiver()
        senders = [hook(receiver, repeat_seconds=10**9) for _ in range(2)]

        for sender in senders:
            sender.offer("signature_invalid", "m", {"counterparty": "fund"})
            assert sender.flush()

        assert receiver.bodies[0]["id"] == receiver.bodies[1]["id"]


class TestARefusingReceiver:
    @pytest.mark.parametrize("trouble", [NotSent("connection_refused"), AnswerLost("timeout"), 503, 429])
    def test_is_tried_again_with_the_same_id(self, trouble: int | Exception) -> None:
        receiver = Receiver([trouble, trouble])
        sender = hook(receiver)
        before = counted("sent")

        sender.offer("parked", "m", {"order_id": "o-1"})

        assert sender.flush()
        assert len({body["id"] for body in receiver.bodies}) == 1
        assert (len(receiver.bodies), counted("sent") - before) == (3, 1)

    def test_is_given_up_and_counted(self) -> None:
        receiver = Receiver([503] * 3)
        sender = hook(receiver)
        before = counted("failed")

        sender.offer("parked", "m", {"order_id": "o-1"})
        sender.offer("parked", "m", {"order_id": "o-2"})

        assert sender.flush()
        assert (len(receiver.bodies), counted("failed") - before) == (4, 1)

    def test_that_says_no_is_not_asked_again(self) -> None:
        receiver = Receiver([401])
        sender = hook(receiver)

        sender.offer("parked", "m", {"order_id": "o-1"})

        assert sender.flush()
        assert len(receiver.bodies) == 1

    def test_an_unexpected_error_does_not_end_the_sending(self) -> None:
        receiver = Receiver([ZeroDivisionError(), 204])
        sender = hook(receiver)

        sender.offer("parked", "m", {"order_id": "o-1"})
        sender.offer("parked", "m", {"order_id": "o-2"})

        assert sender.flush()
        assert len(receiver.bodies) == 2


class TestASlowReceiver:
    @pytest.fixture
    def stuck(self) -> Iterator[Receiver]:
        receiver = Receiver()
        receiver.gate.clear()
        yield receiver
        receiver.gate.set()

    def test_keeps_nobody_waiting_and_what_is_too_much_is_dropped(self, stuck: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhook, "QUEUE_MAX", 5)
        sender = hook(stuck)
        before = counted("dropped")
        began = time.monotonic()

        for number in range(50):
            sender.offer("parked", "m", {"order_id": f"o-{number}"})

        assert time.monotonic() - began < 8  # the receiver keeps each for ten
        assert counted("dropped") - before >= 44
        stuck.gate.set()
        assert sender.flush()

    def test_a_flood_of_one_code_neither_drops_nor_delays_another(self, stuck: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhook, "QUEUE_MAX", 20)
        sender = hook(stuck)
        for number in range(100):
            sender.offer("contents_differ", "m", {"order_id": f"o-{number}"})

        sender.offer("parked", "m", {"order_id": "o-7"})
        sender.offer("unconfirmed_order", "m", {"order_id": "o-8"})

        stuck.gate.set()
        assert sender.flush()
        codes = [body["code"] for body in stuck.bodies]
        assert set(codes[:4]) == {"contents_differ", "parked", "unconfirmed_order"}
        assert len(codes) <= 21

    def test_a_dropped_one_is_no_repeat(self, stuck: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhook, "QUEUE_MAX", 2)
        sender = hook(stuck)
        dropped = counted("dropped")
        for number in range(4):
            sender.offer("parked", "m", {"order_id": f"o-{number}"})
        assert counted("dropped") > dropped
        stuck.gate.set()
        assert sender.flush()

        sender.offer("parked", "m", {"order_id": "o-3"})

        assert sender.flush()
        assert stuck.bodies[-1]["context"]["order_id"] == "o-3"

    def test_does_not_hold_up_the_process_s_end(self, stuck: Receiver) -> None:
        sender = hook(stuck)
        sender.offer("parked", "m", {"order_id": "o-1"})
        began = time.monotonic()

        assert not sender.flush(0.1)

        assert time.monotonic() - began < 8


class TestRaisingAnAlarm:
    def test_cuts_others_words_in_the_line_and_in_the_call(self, settings: Settings) -> None:
        with capture_logs() as lines, raw_server(answering(answer("204 No Content", b""))) as server:
            settings.ALARM_WEBHOOK_URL, settings.ALARM_WEBHOOK_KEY = f"{server.url}/hooks", KEY
            alarms._webhook.cache_clear()
            try:
                alarms.alarm("key_reused", "m", detail="x" * 1_000_000, order_id="o-1")
                alarms.notify("voided", "m", reason="y" * 1_000_000)
                alarms.flush()
            finally:
                alarms._webhook.cache_clear()

        assert [len(line.get("detail", line.get("reason"))) for line in lines] == [2_001, 2_001]
        assert [len(request.body) < 4_000 for request in server.received] == [True, True]

    @pytest.fixture
    def server(self, settings: Settings) -> Iterator[list[Any]]:
        with raw_server(answering(answer("204 No Content", b""))) as server:
            settings.ALARM_WEBHOOK_URL = f"{server.url}/hooks/alarms?team=7"
            settings.ALARM_WEBHOOK_KEY = KEY
            alarms._webhook.cache_clear()
            yield server.received
        alarms._webhook.cache_clear()

    def test_goes_to_the_address_signed(self, server: list[Any]) -> None:
        alarms.alarm("trial", "somebody should look", order_id="o-1")
        alarms.flush()

        (received,) = server
        assert (received.method, received.target) == ("POST", "/hooks/alarms?team=7")
        assert received.headers["x-signature"] == received.signature_under(KEY)
        assert json.loads(received.body)["context"] == {"order_id": "o-1"}

    def test_is_told_from_an_event_which_counts_as_none(self, server: list[Any]) -> None:
        alarms.alarm("trial", "somebody should look", order_id="o-1")
        alarms.notify("people_void", "two people decided", order_id="o-1", intervention=1)
        alarms.notify("people_void", "two people decided", order_id="o-1", intervention=2)
        alarms.flush()

        bodies = [json.loads(received.body) for received in server]
        assert [(body["kind"], body["code"]) for body in bodies] == [("alarm", "trial"), ("event", "people_void"), ("event", "people_void")]
        assert REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "people_void"}) is None

    def test_is_counted_and_logged_though_the_webhook_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def raised() -> float:
            return REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "trial"}) or 0

        monkeypatch.setattr(alarms, "_webhook", lambda: 1 / 0)
        before = raised()

        with capture_logs() as logged:
            alarms.alarm("trial", "somebody should look", order_id="o-1")

        assert raised() == before + 1
        assert logged[0] == {"event": "somebody should look", "alarm": "trial", "order_id": "o-1", "log_level": "error"}
        assert [line["log_level"] for line in logged] == ["error", "error"]  # the second says that the webhook failed

    def test_without_an_address_nothing_is_sent(self, settings: Settings) -> None:
        settings.ALARM_WEBHOOK_URL = ""
        alarms._webhook.cache_clear()

        alarms.alarm("trial", "somebody should look")

        assert alarms._webhook() is None

    def test_a_process_that_ends_at_once_has_sent_it(self, server: list[Any], settings: Settings) -> None:
        code = "import django; django.setup(); from base.alarms import alarm; alarm('last_words', 'x', order_id='o-9')"
        environment = {**os.environ, "ALARM_WEBHOOK_URL": settings.ALARM_WEBHOOK_URL, "ALARM_WEBHOOK_KEY": KEY}
        environment["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"

        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)

        assert [json.loads(received.body)["code"] for received in server] == ["last_words"]

    def test_a_forked_child_sends_its_own(self, server: list[Any]) -> None:
        alarms.alarm("parents", "x")
        alarms.flush()
        child = os.fork()
        if child == 0:
            alarms.alarm("childs", "x")
            alarms.flush()
            os._exit(0)
        os.waitpid(child, 0)

        assert [json.loads(received.body)["code"] for received in server] == ["parents", "childs"]


class TestSettings:
    @pytest.mark.parametrize(
        ("address", "key", "says"),
        [
            ("hooks.example/x", "k", "ALARM_WEBHOOK_URL"),
            ("https://u:p@hooks.example/x", "k", "without user or password"),
            ("https://hooks.example/x", "", "ALARM_WEBHOOK_KEY"),
        ],
    )
    def test_a_half_set_webhook_is_named_at_the_start(self, address: str, key: str, says: str) -> None:
        ended = started_with({**os.environ, "ALARM_WEBHOOK_URL": address, "ALARM_WEBHOOK_KEY": key})

        assert ended.returncode == EXIT_CONFIGURATION
        assert says in ended.stderr
