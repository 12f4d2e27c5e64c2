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
SIGN_IN = 'id="login-form"'
PAGES = ["admin:index", "second_factor", "admin:auth_user_add", "admin:clearing_errorpolicy_add", "admin:password_change"]


def test_is_on_every_answer_also_of_strangers(client: Client) -> None:
    for path in ("/healthz", "/no/such/page", "/admin/login/"):
        policy = client.get(path)["Content-Security-Policy"]

        assert "default-src 'self'" in policy
        assert "object-src 'none'" in policy
        assert "script-src 'self' 'unsafe-eval';" in f"{policy};"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")
class TestBrowser:
    @pytest.fixture
    def open_page(self, transactional_db: None, live_server: LiveServer, tmp_path: Path) -> Callable[[str], tuple[str, str]]:
        """The page as the browser builds it, and what the browser's console says meanwhile."""

        def opened(path: str) -> tuple[str, str]:
            command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"]
            command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000", "--dump-dom", f"{live_server.url}{path}"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            assert "</html>" in ended.stdout, ended.stderr
            return ended.stdout, ended.stderr

        return opened

    @pytest.fixture
    def root(self, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> User:
        """Whom every browser is signed in as. Not by a middleware of the test's: the server has
        read its own before a test begins.
        """
        user = User.objects.create_superuser("root")
        monkeypatch.setattr("django.contrib.auth.middleware.get_user", lambda _request: User.objects.get(pk=user.pk))
        return user

    def test_no_page_needs_what_it_forbids(self, open_page: Callable[[str], tuple[str, str]], root: User) -> None:
        world = World()
        clearing = world.run(world.accept())
        lists = [f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist" for model in admin.site._registry]
        proposal = propose_grant(root, APPROVER, Actor("root", root.pk))
        pages = [*map(reverse, PAGES + lists), reverse("admin:clearing_clearing_change", args=[clearing.pk])]
        pages += [reverse("admin:base_proposal_change", args=[proposal.pk]), reverse("admin:auth_user_change", args=[root.pk])]

        opened = {page: open_page(page) for page in pages}

        assert [page for page, (dom, _) in opened.items() if SIGN_IN in dom] == []
        assert {page: found for page, (_, said) in opened.items() if (found := VIOLATION.findall(said))} == {}

    def test_nor_does_signing_in(self, open_page: Callable[[str], tuple[str, str]]) -> None:
        dom, said = open_page(reverse("admin:login"))

        assert SIGN_IN in dom
        assert VIOLATION.findall(said) == []

    def test_a_page_that_needed_it_would_be_seen(self, open_page: Callable[[str], tuple[str, str]], settings: Settings) -> None:
        settings.CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": ["'self'"]}}

        assert VIOLATION.search(open_page(reverse("admin:index"))[1])
