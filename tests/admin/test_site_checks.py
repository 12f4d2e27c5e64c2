"""The admin's pages are imported by the web process alone: a worker needs none of them."""

import subprocess
import sys

from django.contrib import admin
from django.core import checks

from acceptance_site import urls
from stack.rundir import CHECKOUT

LOADED = """
import sys, django
django.setup()
print(sorted(name for name in sys.modules if name.startswith(("clearing.admin", "ops.admin", "orders.admin", "kafka"))))
"""


def test_a_process_that_serves_no_pages_imports_none() -> None:
    environment = {"PATH": "/usr/bin:/bin", "DJANGO_SETTINGS_MODULE": "acceptance_site.settings"}
    loaded = subprocess.run([sys.executable, "-c", LOADED], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "[]"


def test_every_page_of_the_admin_is_registered_with_its_addresses_and_passes_djangos_checks() -> None:
    assert urls.urlpatterns
    assert {"clearing", "orders", "base"} <= {model._meta.app_label for model in admin.site._registry}
    assert checks.run_checks() == []
