-- One row for each tag, with its key and its counter.
CREATE TABLE peer_tag (
    code text PRIMARY KEY,
    uid bytea NOT NULL,
    key bytea NOT NULL,
    last_counter int NOT NULL DEFAULT 0,
    scan_count bigint NOT NULL DEFAULT 0
);
