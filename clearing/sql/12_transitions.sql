-- The state machine is enforced here, whoever writes: a service function, the admin, or SQL by hand.
-- What may follow what is clearing_may_begin and clearing_may_follow, generated from status.py. The
-- triggers have no WHEN: PostgreSQL would plan it anew for each statement, and a function keeps its
-- plan for the session (docs/decisions/0015).
CREATE OR REPLACE FUNCTION clearing_refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF clearing_may_begin(NEW.state) THEN
            RETURN NULL;
        END IF;
    ELSIF OLD.state = NEW.state OR clearing_may_follow(OLD.state, NEW.state) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'a clearing may not %', CASE TG_OP WHEN 'INSERT' THEN 'begin as ' || NEW.state
            ELSE 'go from ' || OLD.state || ' to ' || NEW.state END
        USING ERRCODE = 'check_violation', DETAIL = format('clearing %s, step %s, epoch %s', NEW.id, NEW.step, NEW.epoch),
            TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END
$$;

-- Made once, since it locks the table against writers for a moment; replacing
-- the functions takes no lock.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'clearing_clearing'::regclass AND tgname = 'clearing_transition') THEN
        CREATE TRIGGER clearing_transition AFTER UPDATE OF state ON clearing_clearing FOR EACH ROW
            EXECUTE FUNCTION clearing_refuse_transition();
        CREATE TRIGGER clearing_beginning AFTER INSERT ON clearing_clearing FOR EACH ROW
            EXECUTE FUNCTION clearing_refuse_transition();
    END IF;
END
$$;
