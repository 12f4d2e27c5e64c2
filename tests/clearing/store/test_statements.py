"""The statements that call the database functions, for psycopg2 and for asyncpg."""

import pytest
from django.db import connection

from clearing.store import statements
from clearing.store.statements import function_call, numbered

CALLS = {name: text for name, text in vars(statements).items() if name.isupper() and not name.startswith("_")}


@pytest.mark.django_db
@pytest.mark.parametrize("name", CALLS)
def test_each_names_the_parameters_and_columns_of_an_installed_function(name: str) -> None:
    sql, _ = numbered(CALLS[name])

    with connection.cursor() as cursor:
        cursor.execute(f"PREPARE the_statement AS {sql}")
        cursor.execute("DEALLOCATE the_statement")


def test_arguments_are_named_and_may_have_a_type() -> None:
    sql = function_call("f", "id", "keys::text[]", columns="a, b")

    assert sql == "SELECT a, b FROM f(p_id => %(id)s, p_keys => %(keys)s::text[])"
    assert numbered(sql) == ("SELECT a, b FROM f(p_id => $1, p_keys => $2::text[])", ("id", "keys"))
