
import base.clock
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clearing', '0003_restorepoint_database'),
        ('orders', '0002_reconcilerun'),
    ]

    operations = [
        migrations.CreateModel(
            name='Intervention',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('retry', 'retry'), ('release_hold', 'release of the hold'), ('confirm_done', 'step confirmed as done'), ('confirm_not_done', 'step confirmed as not done'), ('void', 'void')], max_length=16)),
                ('state', models.CharField(choices=[('requested', 'Requested'), ('executed', 'Executed'), ('refused', 'Refused'), ('failed', 'Failed'), ('expired', 'Expired')], db_default='requested', default='requested', max_length=9)),
                ('epoch', models.IntegerField()),
                ('operation_state', models.CharField(choices=[('planned', 'Planned'), ('open', 'Open'), ('pending', 'Pending'), ('unknown', 'Unknown'), ('done', 'Done'), ('rejected', 'Rejected')], max_length=8)),
                ('held_at', models.DateTimeField(blank=True, null=True)),
                ('reason', models.CharField(max_length=200)),
                ('reference', models.CharField(blank=True, db_default='', help_text="The counterparty's own, of what it did.", max_length=200)),
                ('amount', models.DecimalField(blank=True, decimal_places=18, help_text='Of a transfer; of an exchange, what was sold.', max_digits=36, null=True)),
                ('bought', models.DecimalField(blank=True, decimal_places=18, max_digits=36, null=True)),
                ('min_lot', models.DecimalField(blank=True, decimal_places=18, max_digits=36, null=True)),
                ('document', models.TextField(blank=True, db_default='', help_text='Where the evidence lies, or what it says.')),
                ('asked_by', models.CharField(max_length=150)),
                ('asked_by_id', models.BigIntegerField(blank=True, help_text="The user's key: a name may be changed.", null=True)),
                ('asked_at', models.DateTimeField(db_default=base.clock.ServiceNow())),
                ('expires_at', models.DateTimeField()),
                ('decided_by', models.CharField(blank=True, db_default='', max_length=150)),
                ('decided_at', models.DateTimeField(blank=True, null=True)),
                ('outcome', models.CharField(blank=True, db_default='', max_length=500)),
                ('bookings', models.JSONField(blank=True, default=list, help_text='What people must book by hand after a void.')),
            ],
            options={
                'permissions': [('approve_intervention', 'Can approve an intervention')],
            },
        ),
        migrations.AddField(
            model_name='clearing',
            name='held_at',
            field=models.DateTimeField(blank=True, help_text='When the latest hold was set: a release refers to it.', null=True),
        ),
        migrations.AddField(
            model_name='clearing',
            name='reminded_at',
            field=models.DateTimeField(blank=True, help_text='When people were last reminded that it waits for them.', null=True),
        ),
        migrations.AlterField(
            model_name='statuschange',
            name='actor',
            field=models.CharField(help_text='A process, a person, or who asked and who approved.', max_length=330),
        ),
        migrations.AddIndex(
            model_name='clearing',
            index=models.Index(models.OrderBy(models.F('reminded_at'), nulls_first=True), condition=models.Q(('state', 'parked')), name='clearing_reminder'),
        ),
        migrations.AddField(
            model_name='intervention',
            name='clearing',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='interventions', to='clearing.clearing'),
        ),
        migrations.AddField(
            model_name='intervention',
            name='operation',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clearing.operation'),
        ),
        migrations.AddIndex(
            model_name='intervention',
            index=models.Index(condition=models.Q(('state', 'requested')), fields=['expires_at'], name='intervention_waiting'),
        ),
        migrations.AddConstraint(
            model_name='intervention',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['retry', 'release_hold', 'confirm_done', 'confirm_not_done', 'void'])), name='intervention_kind_known'),
        ),
        migrations.AddConstraint(
            model_name='intervention',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['requested', 'executed', 'refused', 'failed', 'expired'])), name='intervention_state_known'),
        ),
        migrations.AddConstraint(
            model_name='intervention',
            constraint=models.CheckConstraint(condition=models.Q(('kind', 'retry'), models.Q(('state', 'executed'), _negated=True), models.Q(models.Q(('decided_by', ''), _negated=True), models.Q(('decided_by', models.F('asked_by')), _negated=True)), _connector='OR'), name='intervention_needs_two_people'),
        ),
        migrations.AddConstraint(
            model_name='intervention',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'requested')), fields=('clearing',), name='intervention_one_waiting'),
        ),
    ]
