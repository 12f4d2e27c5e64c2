-- The service's clock (base/clock.py). The first migration's text takes a shift from a setting that
-- every session may set, which moves claims, expiries and the guard of 57 seconds: tests alone have
-- that text, in databases of their own (tests/support/clock.py).
CREATE OR REPLACE FUNCTION service_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$ SELECT clock_timestamp() $$;
