"""Every fixed limit of the engine, with its unit in the name and its reason beside it.

A limit that an operator may want to change is a setting (`config/settings.py`). These are fixed, because changing one needs a
measurement or a datasheet.
"""

# HTTP.
REQUEST_TARGET_BYTES_MAX = 4096  # A tap URL with 256 bytes of encrypted file data takes under 1,100.
REQUEST_HEAD_BYTES_MAX = 8190  # aiohttp's own limit for a header line; the front door buffers no more than this.
REQUEST_BODY_BYTES_MAX = 1 << 20  # A batch of 1,000 scans at about 1 KB each.
REQUEST_HEAD_S = 10.0  # From the first byte of a head to its last: 8 KB are a few packets, and anything slower is an attack.
REQUEST_BODY_S = 10.0  # The same for a body that is read as a whole: 1 MiB in 10 s is a slow link between servers.
HEADERS_MAX = 64  # Browsers and balancers together send fewer than 30.
PARAMETERS_MAX = 64  # Query parameters of one request; a tap has fewer than 10.
PARAMETER_BYTES_MAX = 2048  # The value of one parameter; the longest real one is file data in hexadecimal.
ACCOUNTS_IN_PATH_MAX = 4  # Path segments of a tap URL that are looked up as account ids, each with a query.
BATCH_SCANS_MAX = 1000  # Scans of one `POST /v2/scans/batch`.
PIPELINE_BYTES_MAX = 64 * 1024  # Unserved input of a connection before reading from it is paused.
HEADER_MEMO_ENTRIES_MAX = 2048  # Distinct header blocks cached by the front door of a worker.
RETRY_AFTER_S = 1  # The Retry-After header of every 503 and 429.

# Overload: a worker that cannot keep up with what arrives.
# Between two loop iterations that read requests; a busy loop with hundreds of connections takes a few milliseconds each.
SLOW_ROUND_S = 0.025
AGE_LOOK_EVERY = 8  # Requests of a slow iteration that share one query for their age in the kernel, which takes 2 us.
WORKER_WAIT_SHARE = 0.5  # Share of a scan's deadline: a scan that has waited longer is refused; the rest is for answering.
WORKER_CAPACITY_MIN = 64  # Scans that may be in progress, however slow the last ones were.
WORKER_CAPACITY_S = 0.3  # Or as many as were recently answered in this time; the others wait, the newest first.
WORKER_RATE_SCANS_MIN = 16  # With fewer scans in progress the measured rate is that of the callers, not of the worker.
WORKER_RATE_WINDOW_S = 0.25  # Window in which a worker's rate is measured: several periods of a CPU quota.
# Answers between two refusals: a refusal takes a third of the time of a pass, so an overloaded worker spends 4 % on refusals.
ANSWERS_A_REFUSAL = 8
REFUSAL_INTERVAL_S = 0.05  # Between two rounds of refusals.
REFUSALS_IDLE = 256  # Refusals at once while the worker has nothing else to do.
OVERDUE_MEMORY_S = 1.0  # After this long without an overdue scan, the worker counts as no longer overloaded.

# Identifiers.
TAG_CODE_CHARS_MAX = 64  # Tag codes (XUID) have 8 or 16 in every known fleet; imported ones may be longer.
CUSTOMER_ID_CHARS_MAX = 128  # CUID
ACCOUNT_ID_CHARS_MAX = 64  # AID
BATCH_NAME_CHARS_MAX = 128
UID_BYTES = 7  # NT4H2421Gx §8.2: the double-size UID of every supported chip.
IDEMPOTENCY_KEY_CHARS_MAX = 255

# The chips.
COUNTER_MAX = 0xFFFFFF  # SDMReadCtr has 24 bits and stops at this value (NT4H2421Gx §9.3.2).
KEY_VERSIONS_MAX = 127  # A ledger position holds the key version in 7 bits above the 24 of the counter.
META_KEYS_MAX = 16  # Those of one account, batch or tag; each costs one AES block for every encrypted mirror that it is tried on.
META_KEYS_TRIED_MAX = 3 * META_KEYS_MAX  # Candidates for one encrypted mirror: the tag's, its batch's and the account's.
BATCHES_NAMED_MAX = 100  # Batches of one name, in different groups, whose meta keys are tried on a tap that names it.
BATCHES_CACHED_MAX = 1000  # Names of batches whose meta keys a worker remembers.
GROUP_MASTERS_MAX = 4  # Live master keys of a group: every tap of its tags is tried with each of them.
FILE_DATA_BYTES_MAX = 256  # The NDEF file of an NTAG 424 DNA (NT4H2421Gx §8.2.3.1).
WINDOW_BYTES_MAX = 1024  # A MAC window is never longer than the NDEF file printed in hexadecimal.

# The ledger.
HELD_ROUNDS_MAX = 3  # Attempts that find a row locked by another session before its scan is answered 503.
LOCK_TIMEOUT_MS = 300  # Far above the duration of any batch, far below a scan's deadline.
STATEMENT_TIMEOUT_MS = 1000  # Ends what a frozen or overloaded server would otherwise hold forever.
CONNECT_TIMEOUT_MS = 1000  # A healthy server accepts a connection in a few milliseconds.
CONNECT_TIMEOUT_MS_MAX = 8000  # After timeouts: a server short of CPU takes seconds, and giving up earlier does not help.
POSTGRES_MAJOR_MIN = 15  # The oldest PostgreSQL that the ledger's plans and locks are tested on.
RECONNECT_DELAY_MS = 50  # Between attempts to reach a database that refuses connections.
RECONNECT_DELAY_MS_MAX = 1000  # Between attempts of background tasks.
REFUSAL_QUEUE_ROWS_MAX = 10_000  # Best-effort log rows of refused scans that wait to be inserted.
UNKNOWN_ROWS_MAX = 256  # Of these, scans of unknown tags: guessing codes must not displace refusals of tags.
REFUSAL_ROWS_SLOW_MAX = 128  # The same after a slow write: scans that may pass need the database more.
REFUSAL_SLOW_S = 0.1  # A write of the refusal log that takes longer is slow.
LEDGER_CAPACITY_MIN = 256  # Scans that may always wait for a commit, however slow the last statements were.
LEDGER_CAPACITY_SHARE = 0.25  # Share of a scan's deadline: what is committed in it may always wait, up to the minimum above.
LEDGER_RATE_ROWS_MIN = 64  # The time of a smaller statement is mostly its commit and says little about the rate.
LEDGER_RATE_DECAY = 1.05  # One slow statement may be due to a checkpoint, so it lowers the rate by no more than this factor.
TAG_WAITERS_MAX = 2048  # Scans of one tag that wait for each other; more are answered 503 `overloaded`.
STATE_QUEUE_MAX = 20_000  # Scans that wait for their durable state; more are answered 503 `overloaded`.
KEYED_QUEUE_MAX = 4096  # The same for scans with an Idempotency-Key, which cost more to look up.
FLOOR_QUERY_TAGS_MAX = 1024  # Tags in one query for the durable state behind refusals.

# The catalogue.
LOOKUP_BATCH_MAX = 512  # References that one query resolves.
LOOKUP_QUEUE_MAX = 20_000  # Scans that wait for a look-up; more are answered 503 `overloaded`.
LOOKUP_SLOW_S = 0.1  # A round that takes longer is followed by a pause, so that a slow database gets fewer and larger queries.
LOOKUP_PAUSES = 2.0  # Length of that pause, in multiples of the round.
LOOKUP_PAUSE_S_MAX = 0.6  # Less than half of a scan's deadline.
NEGATIVE_TTL_S = 5.0  # How long an absent reference is cached.
CHANGES_READ_MAX = 10_000  # Invalidation rows of one poll; with more, the whole cache is emptied instead.

# Enrolment.
ENROLMENTS_WAITING_MAX = 1024  # Scans of unknown chips being verified, in accounts that enrol; more are answered 503.
ENROLMENT_DERIVATIONS_MAX = 32  # Of these, the ones waiting for a key that takes 5 ms; loading existing tags waits behind them.
ENROLMENT_BATCH_MAX = 256  # Tags created in one transaction.

# Tag files.
TAG_FILE_BYTES_MAX = 4 << 30  # After decompression, some 70 million tags; a small compressed file could expand without end.
TAG_FILE_SILENCE_MS_MAX = 120_000  # An import whose file stops arriving is aborted, because its transaction holds up vacuum.

# Rules and responses.
RULE_SET_BYTES_MAX = 256 * 1024  # The JSON of one rule set, checked before it is parsed.
RULE_GROUPS_MAX = 64  # Groups are tried one after another; 64 simple ones take about 1 us.
RULE_CONDITIONS_MAX = 512  # Comparisons in all groups of one rule set together.
RULE_DEPTH_MAX = 10  # Conditions inside conditions; far below the nesting limit of Python's own parser.
RULE_LINE_CHARS_MAX = 4096  # One condition in line notation.
RULE_VALUES_MAX = 256  # Values of one `in`; enough for every country.
RULE_TEXT_CHARS_MAX = 256  # A text that a fact is compared with.
RULE_NUMBER_MAX = (1 << 53) - 1  # The largest integer that every JSON decoder reads exactly.
RULE_NAME_CHARS_MAX = 64  # The name of a rule group, which /v2 responses show.
FIELD_NAME_CHARS_MAX = 64  # The name of an extended field.
RESPONSE_CHARS_MAX = 4096  # A response text as typed; browsers share no longer URLs.
RESPONSE_SUBTAGS_MAX = 64  # Subtags in one response text.
RESPONSE_RENDERED_CHARS_MAX = 16_384  # A response text with its values; a value that does not fit is left out.
SUBTAG_VALUE_CHARS_MAX = 1024  # One value inserted into a response text.
USER_AGENT_CHARS_MAX = 512  # What is parsed of a user agent: the time grows with the length, and real ones have fewer than 300.
USER_AGENTS_REMEMBERED_MAX = 4096  # Parsed user agents in the cache; parsing one takes about 50 us, caching it 1 KB.
RATE_BUCKETS_MAX = 1 << 17  # Buckets of a host for each of its two rate limits, 16 bytes each; must be a power of two.
