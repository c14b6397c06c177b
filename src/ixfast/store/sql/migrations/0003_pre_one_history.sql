-- First answers under an Idempotency-Key, which the scan log had to be searched for. A scan with a key has an id of 2^62 or
-- more, one without a key a smaller one, so that only keyed scans pay for this.
CREATE TABLE keyed_scan (
    at timestamptz NOT NULL,
    scan_id bigint NOT NULL,
    tag_id bigint NOT NULL,
    position int NOT NULL,
    previous_position int NOT NULL,
    scan_count bigint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX keyed_scan_scan_id ON keyed_scan (scan_id);

-- The highest reading of this database's clock that any worker has seen, so that a clock that was stepped back is noticed by
-- everybody, restarted workers and promoted standbys included.
CREATE TABLE database_state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    clock_high timestamptz NOT NULL DEFAULT '-infinity',
    doubtful_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO database_state DEFAULT VALUES;

-- Written to and rolled back, to find out whether the disk has room (store/fitness.py). Nothing is ever in it.
CREATE UNLOGGED TABLE room_probe (filler text NOT NULL);

-- A generation's number comes again after a failover that lost changes; its identity does not. Rows of the release before
-- have none.
ALTER TABLE catalogue_change ADD COLUMN identity uuid;
ALTER TABLE catalogue_change ALTER COLUMN identity SET DEFAULT gen_random_uuid();
