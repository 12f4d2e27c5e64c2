"""What the tests ask of their own servers beyond what an operator would."""

import psycopg2
import redis


def forget_durability(database_url: str) -> None:
    """The PostgreSQL of a test needn't outlive the machine, only its own processes: without waiting for a disk that others keep busy."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("ALTER SYSTEM SET fsync = off")
            cursor.execute("SELECT pg_reload_conf()")
    finally:
        connection.close()


def forget_messages(broker_url: str) -> None:
    """The broker of a test that never restarts it: without a file on a disk that others keep busy."""
    client = redis.Redis.from_url(broker_url)
    client.config_set("appendonly", "no")
    client.close()
