"""Help texts and labels of the admin: no statement reaches the database."""

import base.clock
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clearing', '0007_counterparty_state'),
    ]

    operations = [
        migrations.AlterField(
            model_name='clearing',
            name='attempts',
            field=models.IntegerField(db_default=0, default=0, help_text='Attempts of the current operation that certainly failed.'),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='held_at',
            field=models.DateTimeField(blank=True, help_text='When the latest hold was set; a release refers to it.', null=True),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='lane',
            field=models.SmallIntegerField(help_text='The number of the queue for its user.'),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='reminded_at',
            field=models.DateTimeField(blank=True, help_text='When operators were last reminded that it waits for them.', null=True),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='restored',
            field=models.BooleanField(db_default=False, default=False, help_text='It may have been run before a restore of the database: each step starts with a status query by its key.'),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='sends',
            field=models.SmallIntegerField(db_default=0, default=0, help_text='How often the sweep has sent its message again since it was queued.'),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='tried_since',
            field=models.DateTimeField(blank=True, help_text='When the first of these calls or queries was made.', null=True),
        ),
        migrations.AlterField(
            model_name='clearing',
            name='tries',
            field=models.IntegerField(db_default=0, default=0, help_text='Calls and status queries since the last progress; the backoff grows with them.'),
        ),
        migrations.AlterField(
            model_name='counterpartystate',
            name='busy_until',
            field=models.DateTimeField(blank=True, help_text='A worker found no free slot: until then the sweep dispatches only as many orders as slots are free.', null=True),
        ),
        migrations.AlterField(
            model_name='counterpartystate',
            name='failures',
            field=models.SmallIntegerField(db_default=0, default=0, help_text='Consecutive failed trials after a probe was answered.'),
        ),
        migrations.AlterField(
            model_name='counterpartystate',
            name='quiet_until',
            field=models.DateTimeField(blank=True, help_text='Its Retry-After with a 429: no calls before.', null=True),
        ),
        migrations.AlterField(
            model_name='counterpartystate',
            name='tokens',
            field=models.FloatField(db_default=0, default=0, help_text='Calls that its rate limit allows now.'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='attempts_max',
            field=models.PositiveIntegerField(blank=True, help_text='Certain failures before the order parks; empty: CLEARING_ATTEMPTS_MAX.', null=True, verbose_name='attempts'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='backoff_base_ms',
            field=models.PositiveIntegerField(blank=True, help_text='Empty: RETRY_BASE_MS.', null=True, verbose_name='backoff from, ms'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='backoff_cap_ms',
            field=models.PositiveIntegerField(blank=True, help_text='Empty: RETRY_CAP_MS.', null=True, verbose_name='backoff up to, ms'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='deadline_seconds',
            field=models.PositiveIntegerField(blank=True, help_text="Since the operation's first attempt; then the order parks, and an unknown outcome stays unknown.", null=True, verbose_name='deadline, s'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='outcome',
            field=models.CharField(blank=True, choices=[('unknown', 'Unknown'), ('pending', 'Pending'), ('retryable', 'Retryable'), ('rejected', 'Rejected')], db_default='', default='', help_text='May only be less certain than the built-in class: unknown means a status query by key before anything is sent again.', max_length=9, verbose_name='class'),
        ),
        migrations.AlterField(
            model_name='errorpolicy',
            name='reason',
            field=models.CharField(help_text='Why this policy exists, for whoever reads it next year.', max_length=200),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='amount',
            field=models.DecimalField(blank=True, decimal_places=18, help_text='The amount transferred; of an exchange, the amount sold.', max_digits=36, null=True),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='asked_at',
            field=models.DateTimeField(db_default=base.clock.ServiceNow(), verbose_name='requested at'),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='asked_by',
            field=models.CharField(max_length=150, verbose_name='requested by'),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='asked_by_id',
            field=models.BigIntegerField(blank=True, help_text="The user's primary key: a name may be changed.", null=True),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='bookings',
            field=models.JSONField(blank=True, default=list, help_text='The bookings to be made by hand after a void.'),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='document',
            field=models.TextField(blank=True, db_default='', help_text='Where the evidence is recorded, or its words.'),
        ),
        migrations.AlterField(
            model_name='intervention',
            name='reference',
            field=models.CharField(blank=True, db_default='', help_text="The counterparty's own reference for what it did.", max_length=200),
        ),
        migrations.AlterField(
            model_name='restorepoint',
            name='database',
            field=models.CharField(db_default='', default='', help_text='The database that was restored; another one has this row as part of its backup.', max_length=64),
        ),
        migrations.AlterField(
            model_name='restorepoint',
            name='through_ms',
            field=models.BigIntegerField(help_text="Orders created up to here, milliseconds of the counter's clock, start each step with a status query."),
        ),
        migrations.AlterField(
            model_name='statuschange',
            name='actor',
            field=models.CharField(help_text='A process, an operator, or the two operators who requested and approved.', max_length=330),
        ),
        migrations.AlterField(
            model_name='voidedbefore',
            name='released_at',
            field=models.DateTimeField(blank=True, help_text="When two operators released its hold: it wasn't voided after all.", null=True),
        ),
    ]
