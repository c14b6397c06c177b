"""Every bound of the engine, with its unit in the name and its reason beside it.

A bound that an operator may want to move is a setting (`settings.py`); what stands here is fixed because moving it
needs a measurement or a datasheet.
"""

# The wire.
REQUEST_TARGET_BYTES_MAX = 4096  # A tap URL with 256 bytes of encrypted file data takes under 1,100.
REQUEST_HEAD_BYTES_MAX = 8190  # aiohttp's own bound for a header line; the front door holds no more than this.
REQUEST_BODY_BYTES_MAX = 1 << 20  # 1,000 scans of a batch at about 1 KB each.
REQUEST_HEAD_S = 10.0  # From a head's first byte to its last; one of 8 KB is a few packets, and drips are an attack.
REQUEST_BODY_S = 10.0  # The same for a body that is read whole: 1 MiB in 10 s is a slow link between servers.
HEADERS_MAX = 64  # Balancers and browsers together send under 30.
PARAMETERS_MAX = 64  # Query parameters of one request; a tap has under 10.
PARAMETER_BYTES_MAX = 2048  # One parameter's value; the longest real one is file data in hexadecimal.
ACCOUNTS_IN_PATH_MAX = 4  # Path segments of a tap URL that are looked up as an account's id, each by a query.
BATCH_SCANS_MAX = 1000  # Scans of one `POST /v2/scans/batch`.
PIPELINE_BYTES_MAX = 64 * 1024  # Unserved input of one connection before its reading is paused.
HEADER_MEMO_ENTRIES_MAX = 2048  # Distinct header blocks remembered by the front door of a worker.
RETRY_AFTER_S = 1  # What every 503 and 429 tells the client to wait at least.

# A worker that does not get round to reading what has arrived.
SLOW_ROUND_S = (
    0.025  # Between two rounds that read requests; a busy loop with hundreds of connections turns in a few milliseconds.
)
AGE_LOOK_EVERY = 8  # Requests of a slow round that share one look at how long the kernel had them; a look takes 2 us.
WORKER_WAIT_SHARE = 0.5  # Of a scan's deadline: what has waited longer is refused; the other half is for the answer.
WORKER_ROOM_MIN = 64  # Scans that may be under way, however slow the last ones were.
WORKER_ROOM_S = 0.3  # Or as many as were lately answered in so long; the others wait for their turn, the newest first.
WORKER_RATE_SCANS_MIN = 16  # With fewer scans under way the rate is that of the callers, not the worker's.
WORKER_RATE_WINDOW_S = 0.25  # Over which a worker's rate is learnt: some periods of a CPU quota.
ANSWERS_A_REFUSAL = (
    8  # A refusal takes a third of a pass's time: so 4 % of the worker's go into refusals while it has too much to do.
)
REFUSAL_INTERVAL_S = 0.05
REFUSALS_IDLE = 256  # Refusals at once while there is nothing else to do.
OVERDUE_MEMORY_S = 1.0  # Nothing overdue for so long: the worker has time again.

# Identifiers.
TAG_CODE_CHARS_MAX = 64  # Tag codes (XUID) are 8 or 16 in every known fleet; imports may bring longer ones.
CUSTOMER_ID_CHARS_MAX = 128  # CUID
ACCOUNT_ID_CHARS_MAX = 64  # AID
UID_BYTES = 7  # NT4H2421Gx §8.2: the double-size UID of every supported chip.
IDEMPOTENCY_KEY_CHARS_MAX = 255

# The chips.
COUNTER_MAX = 0xFFFFFF  # SDMReadCtr is 24 bit and stops there (NT4H2421Gx §9.3.2).
KEY_VERSIONS_MAX = 127  # A ledger position holds the key version in the 7 bits above the counter's 24.
META_KEYS_MAX = 16  # Candidates tried for one encrypted mirror; one AES block each.
GROUP_MASTERS_MAX = 4  # Live masters of a group: each is one more key that every tap of its tags is tried with.
FILE_DATA_BYTES_MAX = 256  # The NDEF file of an NTAG 424 DNA (NT4H2421Gx §8.2.3.1).
WINDOW_BYTES_MAX = 1024  # No MAC window is longer than the NDEF file in its printed form.

# The ledger.
HELD_ROUNDS_MAX = 3  # Rounds in which a row was locked by somebody else before its scan is answered 503.
LOCK_TIMEOUT_MS = 300  # Far above any batch's own time, far below a scan's deadline.
STATEMENT_TIMEOUT_MS = 1000  # Ends what a frozen or overloaded server would otherwise hold for ever.
CONNECT_TIMEOUT_MS = 1000
CONNECT_TIMEOUT_MS_MAX = 8000  # After attempts that ran out of time: a server short of CPU takes seconds, and can't be hurried.
POSTGRES_MAJOR_MIN = 15  # The oldest PostgreSQL that the ledger's plans and locks are tested on.
RECONNECT_DELAY_MS = 50  # Between attempts to reach a database that refuses connections.
RECONNECT_DELAY_MS_MAX = 1000
REFUSAL_QUEUE_ROWS_MAX = 10_000  # Best-effort log rows of refused scans waiting for their insert.
REFUSAL_ROWS_SLOW_MAX = 128  # The same after a write that was slow: scans that may pass need the database more.
REFUSAL_SLOW_S = 0.1  # Such a write.
LEDGER_ROOM_MIN = 256  # Scans that may always wait for a commit, however slow the last statements were.
LEDGER_ROOM_SHARE = 0.25  # Of a scan's deadline: what is committed in so long may always wait, up to `LEDGER_ROOM_MIN`.
LEDGER_RATE_ROWS_MIN = 64  # A smaller statement is mostly its commit and tells little of the rate.
LEDGER_RATE_DECAY = 1.05  # A statement that took long may be a checkpoint's; it lowers the rate by no more than this.
TAG_WAITERS_MAX = 2048  # Scans of one tag waiting for their turn; more are answered 503 `overloaded`.
STATE_QUEUE_MAX = 20_000  # Scans waiting for their durable state to be read; more are answered 503 `overloaded`.
KEYED_QUEUE_MAX = 4096  # The same for scans with an Idempotency-Key, whose look-up costs more.
FLOOR_QUERY_TAGS_MAX = 1024  # Tags of one query for the durable state behind a refusal.

# The catalogue.
LOOKUP_BATCH_MAX = 512  # References resolved by one query.
LOOKUP_QUEUE_MAX = 20_000  # Scans waiting for a look-up; more are answered 503 `overloaded`.
LOOKUP_SLOW_S = 0.1  # A round that takes longer is followed by a pause: fewer and larger queries for a slow database.
LOOKUP_PAUSES = 2.0  # Such a pause is so many times as long as the round.
LOOKUP_PAUSE_S_MAX = 0.6  # Less than half of a scan's deadline.
NEGATIVE_TTL_S = 5.0  # How long an absent reference is believed without asking again.
CHANGES_READ_MAX = 10_000  # Invalidation rows of one poll; more empty the whole cache instead.

# Enrolment.
ENROLMENTS_WAITING_MAX = 1024  # Scans of unknown chips, in accounts that enrol, that are being judged; more are 503 `overloaded`.
ENROLMENT_DERIVATIONS_MAX = 32  # Of these, waiting for a key that takes 5 ms: tags that are loaded wait behind them.
ENROLMENT_BATCH_MAX = 256  # Tags made in one transaction.

# Tag files.
TAG_FILE_BYTES_MAX = 4 << 30  # Text after decompression, some 70 million tags: a small compressed file may be an endless one.
TAG_FILE_SILENCE_MS_MAX = 120_000  # A file that does not go on holds up vacuum, and is given up.

# Rules and responses.
RULE_SET_BYTES_MAX = 256 * 1024  # One rule set's JSON, before anything in it is looked at.
RULE_GROUPS_MAX = 64  # Groups are tried one after the other; 64 simple ones take about 1 us.
RULE_CONDITIONS_MAX = 512  # Comparisons of one rule set, all groups together.
RULE_DEPTH_MAX = 10  # Conditions inside conditions; far below what nests in Python's own parser.
RULE_LINE_CHARS_MAX = 4096  # One condition in line notation.
RULE_VALUES_MAX = 256  # Values of one `in`; every country there is.
RULE_TEXT_CHARS_MAX = 256  # One text that a fact is compared with.
RULE_NUMBER_MAX = (1 << 53) - 1  # The largest integer that every JSON reader takes for the same number.
RULE_NAME_CHARS_MAX = 64  # A group's name, which /v2 replies show.
FIELD_NAME_CHARS_MAX = 64  # An extended field's name.
RESPONSE_CHARS_MAX = 4096  # One response as typed; the longest URLs that browsers share are shorter.
RESPONSE_SUBTAGS_MAX = 64  # Subtags of one response.
RESPONSE_RENDERED_CHARS_MAX = 16_384  # A response with its values; a value that does not fit is left out.
SUBTAG_VALUE_CHARS_MAX = 1024  # One value put into a response.
USER_AGENT_CHARS_MAX = 512  # What is read of a user agent: patterns take time by its length, real ones have under 300.
USER_AGENTS_REMEMBERED_MAX = 4096  # Parsed user agents; parsing one takes some 50 us, remembering it 1 KB.
RATE_BUCKETS_MAX = 1 << 17  # Buckets of a host for each of its two rate limits, 16 bytes each; a power of two.
