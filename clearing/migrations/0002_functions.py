from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent.parent / "sql"


def create(apps, schema_editor):
    for path in sorted(SQL.glob("*.sql")):
        schema_editor.execute(path.read_text(), params=None)


class Migration(migrations.Migration):
    dependencies = [("clearing", "0001_initial")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
