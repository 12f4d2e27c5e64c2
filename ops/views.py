"""Operational endpoints, the pages of what went wrong, and the admin's front page.

The endpoints need no login. A stranger learns whether the process lives and is ready, and nothing
else; what was found, and the metrics, are for whoever sends MONITORING_TOKEN or asks on the
internal METRICS_PORT.
"""

import sys
from http import HTTPStatus
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from base.db import is_unavailable
from ops.monitoring import health, overview, scrape

AWAY_SECONDS: Final = 10  # until the page of an outage loads itself again


def _is_known(request: HttpRequest) -> bool:
    """Whether they may be told more than a stranger. In a checkout without a token everybody is."""
    if settings.METRICS_PORT and request.META.get("SERVER_PORT") == str(settings.METRICS_PORT):
        return True  # the port that was connected to, whatever the request's headers say
    if not settings.MONITORING_TOKEN:
        return not settings.PRODUCTION
    return constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {settings.MONITORING_TOKEN}")


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The process is alive and serves; asks nothing of anybody, so that an outage elsewhere doesn't
    get it killed.
    """
    return JsonResponse({"status": "ok", "version": settings.VERSION} if _is_known(request) else {"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Whether the process can do its work: 200 or 503, and for whoever may know it each probe by
    name, with the fix for what failed.
    """
    results = health.latest.results()
    ready = all(result.status != "failed" for result in results)
    body: dict[str, object] = {"status": "ready" if ready else "not ready"}
    if _is_known(request):
        body["probes"] = {result.probe.name: result.as_dict() for result in results}
    return JsonResponse(body, status=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format; every name is explained in base/metrics.py."""
    if not _is_known(request):
        return HttpResponse(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
    return HttpResponse(scrape.exposition(), content_type=CONTENT_TYPE_LATEST)


def server_error(request: HttpRequest) -> HttpResponse:
    """The page for whatever failed without being expected; of an outage of PostgreSQL, the page
    that says so. Neither needs the database.
    """
    error = sys.exc_info()[1]
    if error is None or not is_unavailable(error):
        return HttpResponse(loader.render_to_string("500.html"), status=HTTPStatus.INTERNAL_SERVER_ERROR)
    page = loader.render_to_string("503.html", {"reload_seconds": AWAY_SECONDS if request.method == "GET" else None})
    return HttpResponse(page, status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": str(AWAY_SECONDS), "Cache-Control": "no-store"})


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
