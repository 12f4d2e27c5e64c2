"""The index of the error codes in use, made while orders are cleared."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("clearing", "0009_money_bounds")]

    operations = [
        AddIndexConcurrently(
            model_name="clearing",
            index=models.Index(
                condition=models.Q(models.Q(("state", "cleared"), _negated=True), models.Q(("error_code", ""), _negated=True)),
                fields=["error_code"],
                name="clearing_error_code",
            ),
        ),
    ]
