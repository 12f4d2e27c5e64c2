"""What an order leaves in its own units, what a user's orders of a day move, what a minute's have
begun with, and which bound has paused a step (design, rule 13). Additive: the release before leaves
all of it empty.
"""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clearing', '0008_plain_words'),
    ]

    operations = [
        migrations.CreateModel(
            name='StartedUsdt',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('usdt', models.DecimalField(decimal_places=18, max_digits=60)),
                ('through_id', models.BigIntegerField(help_text='The last row of the history that was read.')),
            ],
        ),
        migrations.CreateModel(
            name='UserDay',
            fields=[
                ('user_id', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('day', models.DateField()),
                ('usdt', models.DecimalField(decimal_places=18, help_text='Quoted, both directions; without what the bound of one order parked.', max_digits=60)),
            ],
        ),
        migrations.AddField(
            model_name='clearing',
            name='dust',
            field=models.DecimalField(blank=True, decimal_places=18, help_text="Not sold, in the asset sold; stays in the fund.", max_digits=36, null=True),
        ),
        migrations.AddField(
            model_name='clearing',
            name='surplus',
            field=models.DecimalField(blank=True, decimal_places=18, help_text='Bought less owed, in the asset bought; negative: missing.', max_digits=36, null=True),
        ),
        migrations.AddField(
            model_name='pause',
            name='code',
            field=models.CharField(blank=True, db_default='', default='', help_text="Of the bound that has set it; empty: an operator's.", max_length=64),
        ),
    ]
