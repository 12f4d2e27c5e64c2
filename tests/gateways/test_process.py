import os
import threading
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from clearing import gateways as package
from clearing.gateways import Gateways, gateways
from clearing.gateways.fake import FakeCounterparties


def fake_gateways() -> Gateways:
    return FakeCounterparties().gateways()


def nothing() -> None:
    """A factory that forgot to return."""


@pytest.fixture(autouse=True)
def none_built_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_of_process", {})


class TestGateways:
    def test_are_built_once_a_process(self, settings: Settings) -> None:
        settings.GATEWAY_KIND = "http"
        found: list[Gateways] = []
        threads = [threading.Thread(target=lambda: found.append(gateways())) for _ in range(8)]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len({id(built) for built in found}) == 1

    def test_are_built_anew_after_a_fork(self, settings: Settings) -> None:
        settings.GATEWAY_KIND = "http"
        parents = gateways()

        child = os.fork()
        if child == 0:
            os._exit(0 if gateways() is not parents else 1)
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == 0

    def test_may_come_from_a_factory(self, settings: Settings) -> None:
        settings.GATEWAY_KIND = f"{__name__}.fake_gateways"

        assert isinstance(gateways(), Gateways)

    @pytest.mark.parametrize("kind", ["htpp", "nowhere.at_all", f"{__name__}.absent", f"{__name__}.nothing"])
    def test_of_no_known_kind_say_what_to_set(self, settings: Settings, kind: str) -> None:
        settings.GATEWAY_KIND = kind

        with pytest.raises(ImproperlyConfigured, match="GATEWAY_KIND"):
            gateways()

    @pytest.mark.parametrize("name", ["GATEWAY_DEADLINE_MS", "GATEWAY_CALLS_MAX"])
    def test_refuse_limits_that_let_no_call_through(self, settings: Settings, name: str) -> None:
        settings.GATEWAY_KIND = "http"
        setattr(settings, name, 0)

        with pytest.raises(ValueError, match=name):
            gateways()

    def test_refuse_an_address_that_is_none_and_do_not_show_it(self, settings: Settings) -> None:
        settings.GATEWAY_KIND = "http"
        settings.COUNTERPARTY_URLS = {**_urls(settings), "fund": "fund.example:443"}

        with pytest.raises(ValueError, match="the address of a service") as refused:
            gateways()

        assert "fund.example" not in str(refused.value)


def _urls(settings: Settings) -> dict[str, Any]:
    return dict(settings.COUNTERPARTY_URLS)
