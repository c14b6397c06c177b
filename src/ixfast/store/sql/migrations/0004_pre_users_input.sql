-- Many new counters are written at fillfactor 70, and the table is left at 100. Changing that takes its owner, who lends it in this
-- function to a role that owns nothing.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION spread_new_counters(begins boolean) RETURNS void LANGUAGE plpgsql SECURITY DEFINER '
        'SET search_path = %I, pg_temp AS %L',
        current_schema(),
        'BEGIN
            IF begins THEN
                ALTER TABLE tag_counter SET (fillfactor = 70);
            ELSE
                ALTER TABLE tag_counter RESET (fillfactor);
            END IF;
        END'
    );
END
$$;
REVOKE EXECUTE ON FUNCTION spread_new_counters(boolean) FROM PUBLIC;
