from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent.parent / "sql"


def create(apps, schema_editor):
    for path in sorted(SQL.glob("*.sql")):
        schema_editor.execute(path.read_text(), params=None)


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
        migrations.RunPython(create, migrations.RunPython.noop),
    ]
