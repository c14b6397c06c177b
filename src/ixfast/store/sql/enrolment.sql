-- name: enrol
-- Create tags, except where the account has a tag with the UID. $1 account ids, $2 group ids, $3 UIDs, $4 tag codes: parallel
-- arrays. Rows are inserted in the order of the unique index, so that two workers cannot deadlock.
INSERT INTO tag (account_id, group_id, batch_id, xuid, uid)
SELECT h.account_id, h.group_id,
       (SELECT b.batch_id FROM batch AS b WHERE b.group_id = h.group_id ORDER BY b.batch_id LIMIT 1 FOR KEY SHARE),
       h.xuid, h.uid
FROM (
    SELECT n.account_id, n.uid, n.xuid, g.group_id
    FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[]) AS n (account_id, group_id, uid, xuid)
    JOIN tag_group AS g ON g.group_id = n.group_id
    JOIN folder AS f ON f.folder_id = g.folder_id
    WHERE f.account_id = n.account_id AND g.enrols AND g.active AND f.active
    ORDER BY n.account_id, n.uid
    FOR KEY SHARE OF g
) AS h
ORDER BY h.account_id, h.uid
ON CONFLICT (account_id, uid) WHERE uid IS NOT NULL DO NOTHING
RETURNING tag_id;

-- name: withdraw_deleted
-- Delete the new tags that had been deleted before. $1 tag ids.
DELETE FROM tag AS t
USING deleted_tag AS d
WHERE t.tag_id = ANY ($1::bigint[]) AND d.account_id = t.account_id AND d.uid = t.uid;

-- name: complete
-- Add the counters and the audit log entries of the remaining new tags. $1 tag ids.
WITH made AS (
    SELECT tag_id, account_id, group_id, batch_id, xuid, uid FROM tag WHERE tag_id = ANY ($1::bigint[])
), counters AS (
    INSERT INTO tag_counter (tag_id) SELECT tag_id FROM made
), acts AS (
    INSERT INTO audit_log (account_id, act, object, object_id, after)
    SELECT account_id, 'enrol', 'tag', xuid,
           jsonb_build_object('xuid', xuid, 'uid', upper(encode(uid, 'hex')), 'group_id', group_id, 'batch_id', batch_id)
    FROM made
)
SELECT tag_id FROM made;
