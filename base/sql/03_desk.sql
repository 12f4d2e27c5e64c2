-- Who may approve and who may administer: decided here, under the locks of what is decided, so that
-- no page and no process can decide otherwise (design, rule 18).

-- An account is new when it is made or made active again, its credentials when its password is set,
-- by whatever way: an approver's settle anew then.
CREATE OR REPLACE FUNCTION base_note_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.is_active AND NOT OLD.is_active) THEN
        INSERT INTO base_deskaccount (user_id, account_at, credentials_at) VALUES (NEW.id, service_now(), service_now())
            ON CONFLICT (user_id) DO UPDATE SET account_at = service_now();
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.password IS DISTINCT FROM OLD.password THEN
        INSERT INTO base_deskaccount (user_id, account_at, credentials_at) VALUES (NEW.id, NEW.date_joined, service_now())
            ON CONFLICT (user_id) DO UPDATE SET credentials_at = service_now();
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER base_account_noted AFTER INSERT OR UPDATE OF password, is_active ON auth_user
    FOR EACH ROW EXECUTE FUNCTION base_note_account();

-- Who leaves the group of a role loses its grant: coming back takes a new one.
CREATE OR REPLACE FUNCTION base_end_grant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE base_grant g SET ended_at = service_now()
        WHERE g.user_id = OLD.user_id AND g.ended_at IS NULL AND g.role = (SELECT name FROM auth_group WHERE id = OLD.group_id);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER base_grant_ended AFTER DELETE ON auth_user_groups FOR EACH ROW EXECUTE FUNCTION base_end_grant();

-- Whether a user has one of these permissions by a group or directly. Being a superuser doesn't
-- count.
CREATE OR REPLACE FUNCTION base_is_permitted(p_user bigint, p_codenames text[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM auth_permission p WHERE p.codename = ANY(p_codenames) AND (
        EXISTS (SELECT FROM auth_user_user_permissions u WHERE u.user_id = p_user AND u.permission_id = p.id)
        OR EXISTS (SELECT FROM auth_group_permissions r JOIN auth_user_groups m ON m.group_id = r.group_id
            WHERE m.user_id = p_user AND r.permission_id = p.id)))
$$;

-- A role that is guarded: the group, and a grant that two people made.
CREATE OR REPLACE FUNCTION base_holds(p_user bigint, p_role text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM base_grant g WHERE g.user_id = p_user AND g.role = p_role AND g.ended_at IS NULL)
        AND EXISTS (SELECT FROM auth_user_groups m JOIN auth_group a ON a.id = m.group_id WHERE m.user_id = p_user AND a.name = p_role)
$$;

-- From when on an approver's grant, account and credentials are settled.
CREATE OR REPLACE FUNCTION base_settled_at(p_user bigint) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT max(t.at) + base_settled_hours() * interval '1 hour' FROM (
        SELECT greatest(account_at, credentials_at) AS at FROM base_deskaccount WHERE user_id = p_user
        UNION ALL SELECT since FROM base_grant WHERE user_id = p_user AND role = 'approver' AND ended_at IS NULL AND source <> 'upgrade'
        UNION ALL SELECT date_joined FROM auth_user WHERE id = p_user) t
$$;

-- Until when who held both before roles existed may go on asking and approving.
CREATE OR REPLACE FUNCTION base_both_until(p_user bigint) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT since + interval '30 days' FROM base_grant
        WHERE user_id = p_user AND role = 'approver' AND ended_at IS NULL AND source = 'upgrade'
$$;

-- Why a user may not approve what another one asked for; empty: he may. Who decides by it holds the
-- user's row first (base_hold_person), so that nobody takes the right away in between.
CREATE OR REPLACE FUNCTION base_may_not_approve(p_user bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    u auth_user;
    v_both boolean;
BEGIN
    SELECT * INTO u FROM auth_user WHERE id = p_user;
    IF NOT FOUND OR NOT u.is_active OR NOT base_holds(p_user, 'approver') THEN
        RETURN 'not_approver';
    END IF;
    v_both := coalesce(base_both_until(p_user) > service_now(), false);
    IF NOT v_both AND base_is_permitted(p_user, base_asking_permissions()) THEN
        RETURN 'asks_too';
    ELSIF NOT v_both AND (u.is_superuser OR base_is_permitted(p_user, base_administering_permissions())) THEN
        RETURN 'administers_too';
    ELSIF base_settled_at(p_user) > service_now() THEN
        RETURN 'not_settled';
    END IF;
    RETURN '';
END
$$;

-- Why a user may not decide about another one's rights; empty: he may.
CREATE OR REPLACE FUNCTION base_may_not_administer(p_user bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    u auth_user;
BEGIN
    SELECT * INTO u FROM auth_user WHERE id = p_user;
    RETURN CASE WHEN FOUND AND u.is_active AND (u.is_superuser OR base_holds(p_user, 'administrator')) THEN '' ELSE 'not_administrator' END;
END
$$;

-- Keeps a user's row, which whoever changes the user needs, to the end of the transaction.
CREATE OR REPLACE FUNCTION base_hold_person(p_user bigint) RETURNS void LANGUAGE sql AS $$
    SELECT FROM auth_user WHERE id = p_user FOR SHARE
$$;

-- The second person's decision about a proposal. The outcome is empty where it was taken, or says
-- why not: decided, expired, same_person, own_rights, or why this person may not.
CREATE OR REPLACE FUNCTION base_decide(p_proposal bigint, p_approve boolean, p_person text, p_person_id bigint, p_reason text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    p base_proposal;
    v_problem text;
BEGIN
    SELECT * INTO STRICT p FROM base_proposal WHERE id = p_proposal FOR UPDATE;
    IF p.state <> 'requested' THEN
        RETURN 'decided';
    ELSIF p.expires_at <= service_now() THEN
        UPDATE base_proposal SET state = 'expired', decided_at = service_now(), outcome = 'nobody approved it in time' WHERE id = p_proposal;
        RETURN 'expired';
    ELSIF p_approve AND (p.asked_by = p_person OR p.asked_by_id = p_person_id) THEN
        RETURN 'same_person';
    ELSIF p_approve AND p.subject_id = p_person_id THEN
        RETURN 'own_rights';
    END IF;
    PERFORM base_hold_person(p_person_id);
    v_problem := CASE p.kind WHEN 'grant' THEN base_may_not_administer(p_person_id) ELSE base_may_not_approve(p_person_id) END;
    IF v_problem <> '' AND (p_approve OR p.asked_by_id <> p_person_id) THEN
        RETURN v_problem;
    END IF;
    UPDATE base_proposal SET state = CASE WHEN p_approve THEN 'executed' ELSE 'refused' END, decided_by = p_person, decided_by_id = p_person_id,
        decided_at = service_now(), outcome = p_reason WHERE id = p_proposal;
    RETURN '';
END
$$;
