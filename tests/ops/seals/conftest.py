"""A history that is sealed, and a second session for who writes beside it."""

from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import connection
from pytest_django import Settings

from base.clock import ServiceNow
from base.desk.journal import note
from base.fence import no_fence
from base.models import Grant, Seal
from clearing.dispatch import broker
from clearing.gateways.counterparty_state import set_pause
from ops.seals import job
from ops.seals.chain import newest
from ops.seals.sealing import make_seal
from tests.clearing.people import K, done_by_two, held
from tests.support.desk import ann_and_ben
from tests.support.emptying import SUPERUSER_SQL
from tests.support.orders import World


def new_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def key(settings: Settings) -> str:
    made = new_key()
    settings.SEAL_KEY = made
    return made


@pytest.fixture
def world(transactional_db: None, key: str) -> World:
    """A database that has rows in each of the tables; nothing is sealed yet."""
    with connection.cursor() as cursor:
        cursor.execute(SUPERUSER_SQL)
        if cursor.fetchone() != (True,):
            pytest.skip("who gets past the triggers is a superuser here, and the tests' account is none")
    broker.client().flushdb()
    broker.read_generation()
    ann_and_ben()
    job._seen.update(number=0, root="")
    world = World()
    clearing = world.run(world.accept())
    user = User.objects.get(username="ann")
    LogEntry.objects.log_actions(user.pk, [clearing], CHANGE, change_message="looked at it")
    set_pause("fund", 0, paused=True, actor="ann", reason="a test")
    set_pause("fund", 0, paused=False, actor="ann", reason="a test")
    done_by_two(held(world), K.VOID)
    note("signed_in", username="ann")
    grant = Grant.objects.create(user_id=user.pk, username="ann", role="approver", source=Grant.Source.HOST)
    Grant.objects.filter(pk=grant.pk).update(ended_at=ServiceNow())
    return world


@pytest.fixture
def other() -> Iterator[Any]:
    """A superuser's cursor of another session, in a transaction that the test ends."""
    parameters = connection.get_connection_params()
    made = psycopg2.connect(**{name: parameters[name] for name in ("dbname", "host", "port", "user", "password") if parameters.get(name)})
    with made.cursor() as cursor:
        yield cursor
    made.close()


def seal() -> Seal:
    """The next seal."""
    made = make_seal(no_fence, newest())
    assert made is not None
    return made


def by_superuser(sql: str, *parameters: Any) -> int:
    """Past every trigger."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        try:
            cursor.execute(sql, parameters or None)
            return int(cursor.rowcount)
        finally:
            cursor.execute("SET session_replication_role = origin")
