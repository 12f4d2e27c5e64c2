"""The pages of what went wrong: ours, with a way home, also while PostgreSQL is away."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.db import InterfaceError, OperationalError
from django.db.backends.utils import CursorWrapper
from django.template import loader
from django.test import Client

from ops.monitoring import overview
from tests.admin.conftest import person

HOME = 'href="/admin/"'
PAGES = [path.name for path in (Path(settings.BASE_DIR) / "ops" / "templates").glob("[45]*.html")]


@pytest.mark.parametrize("name", PAGES)
def test_each_page_stands_alone_and_leads_home(name: str) -> None:
    """No database, no request: it has to open when nothing else does."""
    text = loader.render_to_string(name, {"reload_seconds": 10})

    assert HOME in text
    assert finders.find("ops/problem.css")
    assert "{" not in text


@pytest.mark.django_db
class TestPages:
    @pytest.fixture
    def anyone(self) -> Client:
        return person("anyone", "view_watermark")

    def test_an_address_that_leads_nowhere(self, anyone: Client) -> None:
        for address in ("/nothing", "/admin/nothing/"):
            answer = anyone.get(address)

            assert (answer.status_code, HOME in answer.content.decode()) == (404, True)

    def test_a_page_that_one_may_not_see(self, anyone: Client) -> None:
        answer = anyone.get("/admin/clearing/clearing/")

        assert (answer.status_code, HOME in answer.content.decode()) == (403, True)
        assert "permission" in answer.content.decode()

    def test_the_front_page_of_somebody_without_the_permission_says_so(self, anyone: Client) -> None:
        assert "Can view clearing" in anyone.get("/admin/").content.decode()

    def test_a_form_without_its_token(self) -> None:
        answer = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "mia"})

        assert (answer.status_code, "load the page again" in answer.content.decode()) == (403, True)

    def test_an_internal_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = person("mia", "view_clearing")
        client.raise_request_exception = False
        monkeypatch.setattr(overview, "read", lambda: 1 / 0)

        answer = client.get("/admin/")

        assert (answer.status_code, HOME in answer.content.decode()) == (500, True)
        assert "ZeroDivisionError" not in answer.content.decode()

    @pytest.mark.parametrize("error", [OperationalError("connection refused: host 10.1.2.3"), InterfaceError("connection already closed")])
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_while_postgresql_is_away(self, anyone: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, method: str) -> None:
        def away(*_: Any, **__: Any) -> None:
            raise error

        anyone.raise_request_exception = False
        monkeypatch.setattr(CursorWrapper, "execute", away)

        answer = getattr(anyone, method)("/admin/orders/watermark/")
        text = answer.content.decode()

        assert (answer.status_code, answer["Retry-After"], HOME in text, "PostgreSQL" in text) == (503, "10", True, True)
        assert ('http-equiv="refresh"' in text) == (method == "get")
        assert "10.1.2.3" not in text
