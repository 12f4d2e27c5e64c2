"""Operational endpoints (no login: they tell no order's contents) and the admin's front page."""

from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from ops.monitoring import health, overview, scrape


@never_cache
@require_safe
def healthz(_request: HttpRequest) -> JsonResponse:
    """The process is alive and serves; asks nothing of anybody, so that an outage elsewhere doesn't
    get it killed.
    """
    return JsonResponse({"status": "ok", "version": settings.VERSION})


@never_cache
@require_safe
def readyz(_request: HttpRequest) -> JsonResponse:
    """Whether the process can do its work: 200 or 503, with each probe by name and the fix for what
    failed.
    """
    results = health.run_probes()
    ready = all(result.status != "failed" for result in results)
    body = {"status": "ready" if ready else "not ready", "probes": {result.probe.name: result.as_dict() for result in results}}
    return JsonResponse(body, status=200 if ready else 503)


@never_cache
@require_safe
def metrics(_request: HttpRequest) -> HttpResponse:
    """Prometheus' text format; every name is explained in base/metrics.py."""
    return HttpResponse(scrape.exposition(), content_type=CONTENT_TYPE_LATEST)


def environment_label(_request: HttpRequest) -> list[str]:
    """[text, colour] at the top of the admin: nobody should mistake production for anything
    else.
    """
    return [settings.ENVIRONMENT, "danger" if settings.PRODUCTION else "info"]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The front page's figures, for those who may see clearings."""
    if not request.user.has_perm("clearing.view_clearing"):
        return context
    try:
        return context | {"overview": overview.read()}
    except DatabaseError as error:
        return context | {"overview_error": str(error).strip()}
