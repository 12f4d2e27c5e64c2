"""Operators at a release's admin: forms by HTTP, whatever fields the release gives them."""

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar

from tests.upgrade.release import Release, UpgradeError

PASSWORD = "a long password of the upgrade test"
TEXT = "as the counterparty's support wrote"
ANSWER_SECONDS_MAX = 60


class _Fields(HTMLParser):
    """The names of a page's inputs with their values; those of text are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name")
        if name and tag in {"input", "textarea"} and given.get("type") not in {"checkbox", "radio", "submit", "search"}:
            self.values[name] = given.get("value") or ""


@dataclass
class Operator:
    """One signed-in operator. The admin's addresses are stored in bookmarks: they stay."""

    name: str
    url: str
    _opener: urllib.request.OpenerDirector = field(init=False)

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._submit("/admin/login/", {"username": self.name, "password": PASSWORD, "next": "/admin/"})

    def ask(self, clearing_id: int, kind: str) -> None:
        """Requests an intervention; every text that the form asks for is filled in."""
        self._submit(f"/admin/clearing/clearing/{clearing_id}/ask/{kind}/", {})

    def decide(self, intervention_id: int, decision: str) -> None:
        """Approves (`approve`) or refuses another operator's request."""
        page = f"/admin/clearing/intervention/{intervention_id}/change/"
        self._submit(
            page, {"decision": decision, "reason": TEXT, "password": PASSWORD}, action=f"/admin/clearing/intervention/{intervention_id}/decide/"
        )

    def approve(self, proposal_id: int) -> None:
        """Approves what another operator proposed."""
        page = f"/admin/base/proposal/{proposal_id}/"
        self._submit(f"{page}change/", {"decision": "approve", "password": PASSWORD}, action=f"{page}decide/")

    def retry(self, clearing_ids: list[int]) -> None:
        """Retries parked orders."""
        ids = ",".join(map(str, clearing_ids))
        self._submit(f"/admin/clearing/clearing/retry/?ids={ids}", {"ids": ids})

    def _submit(self, page: str, values: Mapping[str, str], action: str = "") -> None:
        fields = _Fields()
        fields.feed(self._open(page))
        filled = {name: value or TEXT for name, value in fields.values.items()} | dict(values)
        self._open(action or page, filled)

    def _open(self, path: str, values: Mapping[str, str] | None = None) -> str:
        body = None if values is None else urllib.parse.urlencode(values).encode()
        try:
            with self._opener.open(urllib.request.Request(self.url + path, body, {"Referer": self.url + path}), timeout=ANSWER_SECONDS_MAX) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise UpgradeError(f"{self.name} got {error.code} at {path}") from error


def create_operators(release: Release, *names: str) -> None:
    """Operators with every permission."""
    for name in names:
        release.manage("createsuperuser", "--noinput", f"--username={name}", "--email=", DJANGO_SUPERUSER_PASSWORD=PASSWORD)
