from django.db import migrations

# The functions themselves are code, not schema: clearing/sql/*.sql, installed after every `migrate` (base/functions.py).
# Their row types are schema: a changed one is a new type of a new name, in a migration of its own.
REF = "CREATE TYPE clearing_ref AS (id bigint, epoch int, step int, lane int, queued_ms bigint)"
WORK = """
CREATE TYPE clearing_work AS (
    clearing_id bigint, epoch int, step int, part int, operation_id bigint, operation_state text, counterparty text, action text,
    key text, request bytea, sent_seconds_ago float8, attempts int, tries int, now_ms bigint, claimed_until_ms bigint, started_ms bigint,
    order_id text, user_id text, contract_id text, direction text, asset text, quantity numeric, quoted_usdt numeric, created_ms bigint,
    flow int, queued_ms bigint, exchanges bytea[], hold_code text
)
"""
# Takes the functions that name the types with it, and the note that they are installed.
FORGET = ["DROP FUNCTION IF EXISTS clearing_functions_version()", "DROP TYPE clearing_ref, clearing_work CASCADE"]


class Migration(migrations.Migration):
    dependencies = [("clearing", "0001_initial"), ("base", "0002_incarnation")]
    operations = [
        # Room in each page for the next versions of its rows, and a vacuum that comes while the table is small.
        migrations.RunSQL(
            [
                "ALTER TABLE clearing_clearing SET (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02)",
                "ALTER TABLE clearing_operation SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02)",
            ],
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL([REF, WORK], FORGET),
    ]
