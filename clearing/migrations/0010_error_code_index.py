"""The index of the error codes in use, for the list's filter."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clearing", "0009_money_bounds")]

    operations = [
        migrations.AddIndex(
            model_name="clearing",
            index=models.Index(
                condition=models.Q(models.Q(("state", "cleared"), _negated=True), models.Q(("error_code", ""), _negated=True)),
                fields=["error_code"],
                name="clearing_error_code",
            ),
        ),
    ]
