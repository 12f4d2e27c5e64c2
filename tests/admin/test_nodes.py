"""The Nodes page: who is there, who has died, who leads and why."""

import re
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import Client

from base.clock import ServiceNow
from base.incarnation import registration
from base.membership import View
from base.models import Incarnation, LeaderTerm
from clearing.store import claims
from tests.admin.conftest import person
from tests.support.orders import World

NODES = "/admin/base/incarnation/"


def node(name: str, role: str = "worker", **fields: object) -> Incarnation:
    return Incarnation.objects.create(name=name, role=role, host="host-a", pid=int(name.split(":")[1]), version="1.2", **fields)


@pytest.fixture
def nodes(db: None) -> Client:
    return person("watcher", "view_incarnation")


def lines(client: Client) -> list[str]:
    """The table's rows, as text."""
    page = client.get(NODES).content.decode()
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in re.findall(r"<tr[^>]*title=.*?</tr>", page, re.DOTALL)]


class TestNodes:
    def test_a_living_worker_with_its_claims(self, nodes: Client, world: World) -> None:
        node("host-a:7:x", address="host-a:9100")
        clearing = world.accept()
        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: "host-a:7:x", gives_up=lambda: True)

        [line] = lines(nodes)

        assert line.startswith("worker alive host-a 7 1.2 host-a:9100")
        assert re.search(r" 0\.\d s ago 1 \S$", line)

    def test_one_that_is_silent_and_one_that_was_buried(self, nodes: Client) -> None:
        node("host-a:1:x", beat_at=ServiceNow() - timedelta(seconds=9))
        node("host-a:2:x", ended_at=ServiceNow(), end="dead")
        node("host-a:3:x", ended_at=ServiceNow() - timedelta(hours=2), end="stopped")

        assert [line.split()[1] for line in lines(nodes)] == ["silent", "dead"]

    def test_who_leads_since_when_and_why(self, nodes: Client) -> None:
        node("host-a:5:x", "beat")
        node("host-a:6:x", "beat")
        LeaderTerm.objects.update_or_create(
            defaults={"term": 12, "leader": "host-a:6:y", "previous": "host-a:5:z", "reason": "the leader stood down"}
        )

        page = nodes.get(NODES).content.decode()

        assert [line.startswith("beat · leads") for line in lines(nodes)] == [False, True]
        for text in ("<b>12</b>", "the leader stood down", "host-a:5:z"):
            assert text in page

    def test_one_that_has_ended_does_not_lead_though_it_had_the_leaders_number(self, nodes: Client) -> None:
        node("host-a:6:x", "beat", ended_at=ServiceNow(), end="dead")
        LeaderTerm.objects.update_or_create(defaults={"term": 12, "leader": "host-a:6:y"})

        [line] = lines(nodes)

        assert line.startswith("beat dead")

    def test_whether_zookeeper_shows_it(self, nodes: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        node("host-a:1:x")
        node("host-a:2:x")
        monkeypatch.setattr(registration("web").membership, "look", lambda: View(1, frozenset({"host-a:1:x"})))

        assert [line.split()[-1] for line in lines(nodes)] == ["shown", "missing"]

    def test_a_database_that_is_away_is_said_to_be(self, nodes: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def away() -> None:
            raise OperationalError("the server is starting up")

        monkeypatch.setattr("ops.admin.nodes.read", away)

        page = nodes.get(NODES)

        assert (page.status_code, "the server is starting up" in page.content.decode()) == (200, True)

    def test_not_for_everybody(self, viewer: Client) -> None:
        assert viewer.get(NODES).status_code == 403
