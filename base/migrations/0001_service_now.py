from django.db import migrations

SERVICE_NOW = """
CREATE FUNCTION service_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT clock_timestamp() + coalesce(nullif(current_setting('service.clock_shift', true), '')::interval, interval '0')
$$
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.RunSQL(SERVICE_NOW, "DROP FUNCTION service_now()")]
