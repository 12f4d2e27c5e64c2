import time
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from base.clock import shift_clock
from base.desk.again import CONFIRMED_AT
from base.desk.roles import APPROVER
from clearing.dispatch import broker
from tests.support.desk import member
from tests.support.orders import World


@pytest.fixture
def world(db: None) -> Iterator[World]:
    """Counterparties in memory and a worker, on a real database and a real, empty broker."""
    broker.client().flushdb()
    yield World()
    shift_clock(0)


def person(name: str, *permissions: str) -> Client:
    """A signed-in member of staff with these permissions."""
    user = member(name, *([APPROVER] if "approve_intervention" in permissions else []))
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return signed_in(user)


def signed_in(user: User) -> Client:
    """A client of the user's, who has just authenticated again."""
    client = Client()
    client.force_login(user)
    session = client.session
    session[CONFIRMED_AT] = time.time()
    session.save()
    return client


@pytest.fixture
def viewer(db: None) -> Client:
    """An operator who may only look."""
    return person("viewer", "view_clearing", "view_syncorder", "view_quarantined", "view_watermark", "view_logentry")


@pytest.fixture
def operator(db: None) -> Client:
    """An operator who may look and retry."""
    return person("operator", "view_clearing", "change_clearing", "view_syncorder", "view_logentry")


@pytest.fixture
def replayer(db: None) -> Client:
    """An operator who may look at the quarantine and replay."""
    return person("replayer", "view_quarantined", "change_quarantined", "view_syncorder", "view_logentry")
