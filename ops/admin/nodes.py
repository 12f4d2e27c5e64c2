"""The admin's "Nodes" page: every process with its last heartbeat and its claims, those that ended
within the hour, and the leader.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from base.incarnation import registration
from base.membership import View
from base.models import Incarnation, LeaderTerm
from base.process_name import process_of
from base.readonly import ReadOnlyAdmin
from ops.liveness.heartbeats import DEAD_SECONDS

SHOWN_MAX = 300
ENDED_SHOWN = "1 hour"
NODES_SQL = """
    SELECT i.name, i.role, i.host, i.pid, i.version, i.address, i.started_at, i.ended_at, i."end",
           extract(epoch FROM service_now() - i.beat_at)::float8, coalesce(c.claims, 0)
    FROM base_incarnation i
    LEFT JOIN (SELECT claimed_by, count(*) AS claims FROM clearing_clearing WHERE state = 'running' GROUP BY claimed_by) c ON c.claimed_by = i.name
    WHERE i.ended_at IS NULL OR i.ended_at > service_now() - %s::interval
    ORDER BY i.ended_at DESC NULLS FIRST, i.role, i.started_at LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Node:
    """One incarnation. `shown`: whether ZooKeeper lists it; None where there is no ZooKeeper or it
    doesn't answer.
    """

    name: str
    role: str
    host: str
    pid: int
    version: str
    address: str
    started_at: datetime
    ended_at: datetime | None
    end: str
    silent_seconds: float
    claims: int
    shown: bool | None = None
    leads: bool = False

    @property
    def state(self) -> str:
        """alive, silent (soon marked dead), stopped or dead."""
        if self.ended_at is not None:
            return self.end
        return "silent" if self.silent_seconds >= DEAD_SECONDS else "alive"


def read() -> tuple[LeaderTerm | None, list[Node]]:
    """The leader's term, and the nodes, live ones first. Raises DatabaseError."""
    with transaction.atomic(), connection.cursor() as cursor:
        term = LeaderTerm.objects.first()
        cursor.execute(NODES_SQL, [ENDED_SHOWN, SHOWN_MAX])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    view = registration("web").membership.look()
    leader = process_of(term.leader) if term else ""
    return term, [_node(row, view, leader) for row in rows]


def _node(row: tuple[Any, ...], view: View | None, leader: str) -> Node:
    node = Node(*row)
    if node.ended_at is not None:
        return node
    return replace(node, shown=node.name in view.names if view else None, leads=process_of(node.name) == leader)


@admin.register(Incarnation)
class NodesAdmin(ReadOnlyAdmin):
    """The page takes the list's place; a single node has no page."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {**self.admin_site.each_context(request), "title": "Nodes", **(extra_context or {})}
        try:
            context["term"], context["nodes"] = read()
        except DatabaseError as error:
            context["error"] = str(error).strip()
        return TemplateResponse(request, "ops/nodes.html", context)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_view_permission(request)
