"""What a claim returns has the order's row with the counter's MAC: the worker that is about to sign
step 1 checks it (design, rule 14). A new type, since the release before reads the other one.
"""

from django.db import migrations

WORK = """
CREATE TYPE clearing_work_3 AS (
    clearing_id bigint, epoch int, step int, part int, operation_id bigint, operation_state text, counterparty text, action text,
    key text, request bytea, sent_seconds_ago float8, attempts int, tries int, now_ms bigint, claimed_until_ms bigint, started_ms bigint,
    order_id text, user_id text, contract_id text, direction text, asset text, quantity numeric, quoted_usdt numeric, created_ms bigint,
    flow int, queued_ms bigint, exchanges bytea[], hold_code text, tried_seconds_ago float8,
    shard int, sequence bigint, instrument text, kind text, mac text, mac_key_id text
)
"""
FORGET = ["DROP FUNCTION IF EXISTS clearing_functions_version()", "DROP TYPE clearing_work_3 CASCADE"]


class Migration(migrations.Migration):
    dependencies = [("clearing", "0010_error_code_index"), ("orders", "0006_order_mac")]

    operations = [migrations.RunSQL(WORK, FORGET)]
