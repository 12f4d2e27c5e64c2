"""The Content-Security-Policy: on every answer, and no page of the admin needs what it forbids, as
a real browser says.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from base.desk.actor import Actor
from base.desk.proposals import propose_grant
from base.desk.roles import APPROVER
from tests.support.orders import World

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
VIOLATION = re.compile(r"CONSOLE.*Content Security Policy.*|CONSOLE.*(EvalError|Refused).*")
PAGES = ["admin:index", "admin:auth_user_add", "admin:clearing_errorpolicy_add", "admin:password_change"]


def as_superuser(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: a browser without a session is signed in."""

    def answer(request: HttpRequest) -> HttpResponse:
        request.user = User.objects.get(is_superuser=True)
        return get_response(request)

    return answer


def test_is_on_every_answer_also_of_strangers(client: Client) -> None:
    for path in ("/healthz", "/no/such/page", "/admin/login/"):
        policy = client.get(path)["Content-Security-Policy"]

        assert "default-src 'self'" in policy
        assert "object-src 'none'" in policy
        assert "script-src 'self' 'unsafe-eval';" in f"{policy};"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")
class TestBrowser:
    @pytest.fixture
    def console(self, transactional_db: None, live_server: LiveServer, settings: Settings, tmp_path: Path) -> Callable[[str], str]:
        """What the browser's console says while it opens a page as a superuser."""
        User.objects.create_superuser("root")
        at = settings.MIDDLEWARE.index("django.contrib.messages.middleware.MessageMiddleware")
        settings.MIDDLEWARE = [*settings.MIDDLEWARE[:at], f"{__name__}.as_superuser", *settings.MIDDLEWARE[at:]]

        def open_page(path: str) -> str:
            command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
            command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000", "--dump-dom", f"{live_server.url}{path}"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            assert "</html>" in ended.stdout, ended.stderr
            return ended.stderr

        return open_page

    def test_no_page_needs_what_it_forbids(self, console: Callable[[str], str]) -> None:
        world = World()
        clearing = world.run(world.accept())
        lists = [f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist" for model in admin.site._registry]
        root = User.objects.get()
        proposal = propose_grant(root, APPROVER, Actor("root", root.pk))
        pages = [*map(reverse, PAGES + lists), reverse("admin:clearing_clearing_change", args=[clearing.pk]), "/admin/login/"]
        pages += [
            reverse("second_factor"),
            reverse("admin:base_proposal_change", args=[proposal.pk]),
            reverse("admin:auth_user_change", args=[root.pk]),
        ]

        found = {page: VIOLATION.findall(console(page)) for page in pages}

        assert {page: said for page, said in found.items() if said} == {}

    def test_a_page_that_needed_it_would_be_seen(self, console: Callable[[str], str], settings: Settings) -> None:
        settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'self'"]}}

        assert VIOLATION.search(console(reverse("admin:index")))
