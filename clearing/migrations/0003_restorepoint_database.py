from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("clearing", "0002_functions")]
    operations = [
        migrations.AddField(
            model_name="restorepoint",
            name="database",
            field=models.CharField(
                db_default="", default="", help_text="The database that it was said of: another one holds it as part of its backup.", max_length=64
            ),
        ),
    ]
