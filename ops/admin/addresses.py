"""The admin's addresses. They stay as they are when a model is renamed: operators have them in
bookmarks and tickets, and the release before serves them beside this one.
"""

from typing import Any, Final

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path

STORED: Final = {
    "clearing/counterpartystate/": "clearing/standing/",
    "clearing/counterpartystatechange/": "clearing/standingchange/",
}


def admin_urls() -> tuple[list[URLPattern | URLResolver], str, str]:
    """`admin.site.urls` with the addresses of renamed models under the names that they had
    first.
    """
    patterns, app, namespace = admin.site.urls
    return [_stored(pattern) for pattern in patterns], app, namespace


def _stored(pattern: Any) -> Any:
    address = STORED.get(str(pattern.pattern))
    return path(address, (pattern.url_patterns, pattern.app_name, pattern.namespace)) if address else pattern
