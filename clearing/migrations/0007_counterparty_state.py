"""Two models get the names that the code uses; tables, columns and permissions keep theirs, so the
only statement that touches a table of the service adds the three counterparties' rows.

Django renames the two content types with the models (`RenameModel` at this level, not inside
`SeparateDatabaseAndState`, which it doesn't look into): groups keep their permissions and the audit
log its entries. Without that, the permissions would be made again under new content types, and those
that groups hold would belong to a content type that `remove_stale_contenttypes` deletes. The release
before asks for permissions by codename, which stay; if it writes to the audit log meanwhile, Django
makes it a content type of the old name, which nothing here reads.
"""

from django.db import migrations


def permissions(stored: str, shown: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{action}_{stored}", f"Can {action} {shown}") for action in ("add", "change", "delete", "view"))


class Migration(migrations.Migration):
    dependencies = [("clearing", "0006_voided_before")]
    operations = [
        migrations.AlterModelTable("standing", "clearing_standing"),
        migrations.AlterModelTable("standingchange", "clearing_standingchange"),
        migrations.RenameModel("Standing", "CounterpartyState"),
        migrations.RenameModel("StandingChange", "CounterpartyStateChange"),
        migrations.AlterModelOptions(
            "counterpartystate",
            {
                "default_permissions": (),
                "permissions": permissions("standing", "counterparty"),
                "verbose_name": "counterparty",
                "verbose_name_plural": "counterparties",
            },
        ),
        migrations.AlterModelOptions(
            "counterpartystatechange",
            {
                "default_permissions": (),
                "permissions": permissions("standingchange", "change of a counterparty"),
                "verbose_name": "change of a counterparty",
                "verbose_name_plural": "changes of counterparties",
            },
        ),
        # So that the admin's page finds all three and a GET has nothing to write.
        migrations.RunSQL(
            "INSERT INTO clearing_standing (name) VALUES ('counter'), ('fund'), ('trading') ON CONFLICT (name) DO NOTHING",
            migrations.RunSQL.noop,
        ),
    ]
