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

-- API keys that can look and not change.
ALTER TABLE api_key DROP CONSTRAINT api_key_scopes_check;
ALTER TABLE api_key ADD CONSTRAINT api_key_scopes_check CHECK (scopes <@ ARRAY['scan', 'read', 'manage', 'keys']);

-- The scan log keeps the reason of a refusal, and scans of unknown tags with the account of their API key. A partition that is
-- detached at the moment gets the columns as well, or it could not be attached again.
ALTER TABLE scan_log ADD COLUMN reason text;
ALTER TABLE scan_log ADD COLUMN account_id bigint;
DO $$
DECLARE
    detached regclass;
BEGIN
    FOR detached IN
        SELECT oid FROM pg_class
        WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind = 'r' AND NOT relispartition
          AND relname ~ '^scan_log_[0-9]{4}_[0-9]{2}$'
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN reason text, ADD COLUMN account_id bigint', detached);
    END LOOP;
END
$$;

-- Scans of deleted tags can be found by their batch.
ALTER TABLE deleted_tag ADD COLUMN batch_id bigint;

-- Statistics by country, for groups that ask for them.
ALTER TABLE tag_group ADD COLUMN country_statistics boolean NOT NULL DEFAULT false;
CREATE TABLE visitor_country (
    at timestamptz NOT NULL,
    tag_id bigint NOT NULL,
    verdict "char" NOT NULL,
    country text NOT NULL CHECK (length(country) = 2)
) PARTITION BY RANGE (at);
CREATE INDEX visitor_country_at ON visitor_country USING brin (at) WITH (pages_per_range = 32, autosummarize = on);

-- The tap that each Idempotency-Key is bound to: a row for each key, so that no two taps can be accepted under one. `position` is
-- -1 for a tap that proves none; `fingerprint` is a hash of the tap as it was sent, 0 if unknown; `refused` says that a refusal
-- under the key is in the log. Written only for scans with a key, and forgotten after two days (store/partitions.py).
CREATE TABLE keyed_tap (
    scan_id bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    tag_id bigint NOT NULL,
    position int NOT NULL,
    fingerprint bigint NOT NULL,
    refused boolean NOT NULL DEFAULT false
);
CREATE INDEX keyed_tap_at ON keyed_tap (at);

-- Keys in use stay with their taps. Where two taps were accepted under one key, it stays with the first.
INSERT INTO keyed_tap (scan_id, at, tag_id, position, fingerprint)
SELECT DISTINCT ON (scan_id) scan_id, at, tag_id, position, 0 FROM keyed_scan ORDER BY scan_id, at;

-- Meta keys of batches, which are tried on taps that name the batch, and on those of its tags.
CREATE TABLE batch_key (
    batch_id bigint NOT NULL REFERENCES batch,
    version smallint NOT NULL CHECK (version BETWEEN 0 AND 127),
    live boolean NOT NULL DEFAULT true,
    kek_id text NOT NULL,
    wrapped bytea NOT NULL,
    check_value bytea NOT NULL CHECK (length(check_value) = 3),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, version)
);

-- Which key-encryption keys each worker of each running server has open (store/key_holders.py): a rotation seals nothing under a key
-- that one of them lacks. Workers renew their rows; a row that is not renewed expires. It has ids of keys, never a key.
CREATE TABLE key_holder (
    server text NOT NULL,
    worker int NOT NULL,
    host text NOT NULL,
    address inet,
    key_file text NOT NULL,
    kek_ids text[] NOT NULL,
    current_id text,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server, worker)
);
