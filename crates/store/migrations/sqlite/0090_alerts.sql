-- What is wrong by cause, what people do not want to hear of, and what others are still to be told.
CREATE TABLE alerts (
    id       BIGINT NOT NULL PRIMARY KEY,   -- given by whoever decides; rises
    rule     TEXT   NOT NULL,
    state    TEXT   NOT NULL,               -- pending, firing, resolved
    since    BIGINT NOT NULL,
    began_at BIGINT,
    ended_at BIGINT,
    version  BIGINT NOT NULL,               -- of the body's form
    body     TEXT   NOT NULL                -- JSON
);
CREATE INDEX alerts_by_state ON alerts (state, id);

CREATE TABLE alert_changes (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    alert BIGINT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    at    BIGINT NOT NULL,
    kind  TEXT   NOT NULL,
    text  TEXT   NOT NULL
);
CREATE INDEX alert_changes_by_alert ON alert_changes (alert, seq);

CREATE TABLE silences (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    matchers   TEXT   NOT NULL,             -- JSON
    reason     TEXT   NOT NULL,
    author     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    ends_at    BIGINT NOT NULL,
    ended_by   TEXT                         -- NULL: it ends, or ended, by itself
);

CREATE TABLE feeds (
    name       TEXT   NOT NULL PRIMARY KEY, -- kind/name
    bytes      BIGINT NOT NULL DEFAULT 0,   -- of what waits
    attempts   BIGINT NOT NULL DEFAULT 0,   -- in vain, in a row
    next_at    BIGINT NOT NULL DEFAULT 0,
    problem    TEXT,
    failing_since BIGINT,
    sent       BIGINT NOT NULL DEFAULT 0,
    sent_at    BIGINT,
    dropped    BIGINT NOT NULL DEFAULT 0,
    refused    BIGINT NOT NULL DEFAULT 0,
    state      TEXT   NOT NULL DEFAULT ''   -- what the feed itself has to remember, JSON
);

CREATE TABLE feed_queue (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    feed TEXT   NOT NULL REFERENCES feeds (name) ON DELETE CASCADE,
    at   BIGINT NOT NULL,
    body BLOB   NOT NULL
);
CREATE INDEX feed_queue_by_feed ON feed_queue (feed, seq);
