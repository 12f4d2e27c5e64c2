import base.clock
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clearing', '0005_policies'),
    ]

    operations = [
        migrations.CreateModel(
            name='VoidedBefore',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('order_id', models.CharField(max_length=64, unique=True)),
                ('at', models.DateTimeField(db_default=base.clock.ServiceNow())),
                ('actor', models.CharField(max_length=150)),
                ('released_at', models.DateTimeField(blank=True, help_text="When two people released its hold: it wasn't voided after all.", null=True)),
            ],
        ),
    ]
