"""A process among its like: registered, beating, ended; whatever server is away."""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.db import OperationalError, connection
from structlog.testing import capture_logs

from base import incarnation, notify
from base.clock import ServiceNow
from base.incarnation import Registration, registration
from base.models import Incarnation
from tests.support.waiting import wait_until


@dataclass
class Clock:
    """Time that passes when it is waited for, and by hand; in the place of the event that ends a
    registration, too.
    """

    ends_after: int
    now: float = 0.0

    def is_set(self) -> bool:
        return self.ends_after == 0

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ends_after -= 1


@pytest.mark.django_db(transaction=True)
class TestRegistration:
    def test_a_started_one_registers_beats_and_ends(self) -> None:
        registration = Registration("consumer", "host:9100")
        registration.start()
        wait_until(Incarnation.objects.exists)
        born = Incarnation.objects.get()

        wait_until(lambda: Incarnation.objects.get().beat_at > born.beat_at)
        registration.end()

        ended = Incarnation.objects.get()
        assert (born.role, born.pid, born.address, ended.name, ended.end) == ("consumer", os.getpid(), "host:9100", born.name, "stopped")

    def test_an_end_is_an_end_whatever_the_heart_was_about_to_do(self) -> None:
        registration = Registration("worker")
        assert registration.name
        registration.end()

        registration.beat()

        assert not Incarnation.objects.filter(ended_at__isnull=True).exists()

    def test_a_zookeeper_that_does_not_answer_costs_no_beat(self) -> None:
        registration, over = Registration("worker"), threading.Event()
        registration.membership = cast("Any", SimpleNamespace(show=lambda _name: over.wait(60), leave=lambda: None))
        registration.start()
        wait_until(Incarnation.objects.exists)
        born = Incarnation.objects.get().beat_at

        wait_until(lambda: Incarnation.objects.get().beat_at - born > timedelta(seconds=2.5))

        over.set()
        registration.end()

    def test_a_thread_that_does_not_start_ends_no_heartbeat(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = threading.Thread.start

        def no_more_threads(thread: threading.Thread) -> None:
            if thread.name == "membership":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", no_more_threads)
        registration = Registration("worker")

        registration.start()
        wait_until(Incarnation.objects.exists)
        born = Incarnation.objects.get().beat_at

        wait_until(lambda: Incarnation.objects.get().beat_at > born)
        registration.end()

    def test_beats_are_a_second_apart_however_long_one_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(ends_after=6)
        monkeypatch.setattr(incarnation, "monotonic", lambda: clock.now)
        monkeypatch.setattr(Registration, "_keep_membership", lambda _: None)
        began, lasts = list[float](), iter([0.25, 0.0, 0.5, 3.0, 0.25, 0.0])

        def beat(_: Registration) -> None:
            began.append(clock.now)
            clock.now += next(lasts)

        monkeypatch.setattr(Registration, "beat", beat)
        registration = Registration("worker")
        registration._stopping = cast("Any", clock)

        registration._beat()

        assert began == [0, 1, 2, 3, 6, 7]

    def test_it_registers_when_postgresql_is_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        away = [False, True, True]  # taken from the end
        register = Registration._register

        def refuse(registration: Registration) -> str:
            if away.pop():
                raise OperationalError("the server is starting up")
            return register(registration)

        monkeypatch.setattr(Registration, "_register", refuse)
        registration = Registration("worker")
        registration.start()

        wait_until(Incarnation.objects.exists, seconds=10)
        registration.end()

    def test_a_name_is_outlived_when_it_has_ended_and_another_is_there(self) -> None:
        registration = Registration("worker")
        registration._heartbeat = threading.Thread()  # never started
        old = registration.name
        assert not registration.outlived(old)
        Incarnation.objects.update(ended_at=ServiceNow(), end="dead")

        assert registration.outlived(old)
        assert registration.outlived(old)  # another thread has asked before
        assert not registration.outlived(registration.name)
        assert Incarnation.objects.count() == 2

        last = registration.name
        registration.end()
        assert not registration.outlived(last)

    def test_a_process_that_ends_by_itself_ends_its_life(self) -> None:
        code = "import django; django.setup(); from base.incarnation import registration; print(registration('beat').name)"
        names = {**os.environ, "DJANGO_SETTINGS_MODULE": "acceptance_site.settings", "DATABASE_URL": database_url()}

        printed = subprocess.run([sys.executable, "-c", code], env=names, capture_output=True, text=True, check=True, timeout=60).stdout

        assert Incarnation.objects.get(name=printed.strip().splitlines()[-1]).end == "stopped"

    def test_a_forks_child_has_a_life_of_its_own(self) -> None:
        assert registration() is registration()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"parents" if registration() is parents else b"own")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 10) == b"own"


parents = registration()


def database_url() -> str:
    """The address of the tests' database."""
    found = connection.settings_dict
    return f"postgresql://{found['USER']}:{found['PASSWORD']}@{found['HOST']}:{found['PORT']}/{found['NAME']}"


class TestReady:
    def test_whoever_listens_hears_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mailbox:
            mailbox.bind(f"\0test-{os.getpid()}")
            monkeypatch.setenv("NOTIFY_SOCKET", f"@test-{os.getpid()}")

            notify.ready()

            mailbox.settimeout(5)
            assert mailbox.recv(100) == b"READY=1"

    def test_a_supervisor_that_does_not_listen_is_logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")

        with capture_logs() as logged:
            notify.ready()

        assert [(line["log_level"], line["socket"]) for line in logged] == [("warning", "/nowhere/at/all")]

    def test_without_a_supervisor_nothing_is_sent_and_nothing_logged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", "")
        monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("it opened a socket"))

        with capture_logs() as logged:
            notify.ready()

        assert logged == []
