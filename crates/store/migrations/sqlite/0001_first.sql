-- Times are milliseconds since 1970 (UTC), JSON is text, hashes are lower-case hexadecimal.

CREATE TABLE settings (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE sources (
    name       TEXT   NOT NULL PRIMARY KEY,
    url        TEXT,                        -- NULL: this server hosts it
    branch     TEXT   NOT NULL,
    architectures TEXT NOT NULL DEFAULT '[]', -- JSON; empty: the server's usual ones
    tip        TEXT,
    counter    BIGINT NOT NULL DEFAULT 0,   -- the N of the newest build's version; only rises
    polled_at  BIGINT,
    problem    TEXT,
    created_at BIGINT NOT NULL,
    removed_at BIGINT                       -- the row stays, so that the counter never begins anew
);

CREATE TABLE builds (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    source       TEXT   NOT NULL REFERENCES sources (name),
    commit_id    TEXT   NOT NULL,
    number       BIGINT NOT NULL,           -- the N of its version
    subject      TEXT   NOT NULL,
    author       TEXT   NOT NULL,
    committed_at BIGINT NOT NULL,
    architecture TEXT   NOT NULL,
    scope        TEXT   NOT NULL,           -- which packages it makes: full, any, all
    leads        BIGINT NOT NULL,           -- 1: the other builds of the commit wait for this one
    method       TEXT,                      -- native, cross, emulated; once it is known
    state        TEXT   NOT NULL,
    version      TEXT,
    packages     TEXT   NOT NULL DEFAULT '[]',
    reason       TEXT,
    queued_at    BIGINT NOT NULL,
    started_at   BIGINT,
    ended_at     BIGINT,
    attempts     BIGINT NOT NULL DEFAULT 0,
    UNIQUE (source, number, architecture, scope)
);
CREATE INDEX builds_by_state ON builds (state, id);
CREATE INDEX builds_by_source ON builds (source, id);

CREATE TABLE devices (
    name         TEXT   NOT NULL PRIMARY KEY,
    state        TEXT   NOT NULL,
    fingerprint  TEXT   NOT NULL UNIQUE,
    stage        TEXT,
    csr          TEXT   NOT NULL,
    certificate  TEXT,
    architecture TEXT   NOT NULL,
    os           TEXT   NOT NULL,
    enrolled_at  BIGINT NOT NULL,
    seen_at      BIGINT,
    good_commit  TEXT,
    suite        TEXT,
    since        BIGINT,                    -- when good_commit and suite were reported first
    convergence  TEXT,                      -- of the newest report that had one
    report       TEXT,
    reported_at  BIGINT
);

CREATE TABLE reports (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    device      TEXT   NOT NULL REFERENCES devices (name) ON DELETE CASCADE,
    id          TEXT   NOT NULL,
    received_at BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    UNIQUE (device, id)
);
CREATE INDEX reports_by_device ON reports (device, seq);

CREATE TABLE sightings (
    device     TEXT   NOT NULL REFERENCES devices (name) ON DELETE CASCADE,
    package    TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    first_seen BIGINT NOT NULL,
    gone_at    BIGINT,                      -- NULL: the newest report has it
    PRIMARY KEY (device, package, version)
);
CREATE INDEX sightings_by_package ON sightings (package, version);

CREATE TABLE join_secrets (
    hash       TEXT   NOT NULL PRIMARY KEY,
    stage      TEXT   NOT NULL,
    uses_left  BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE tokens (
    name       TEXT   NOT NULL PRIMARY KEY,
    role       TEXT   NOT NULL,
    hash       TEXT   NOT NULL UNIQUE,
    limits     TEXT,                        -- of a token that may only upload, JSON
    created_at BIGINT NOT NULL,
    used_at    BIGINT
);

CREATE TABLE branches (
    name     TEXT   NOT NULL PRIMARY KEY,
    tip      TEXT   NOT NULL,
    moved_at BIGINT NOT NULL                -- by this server's clock, not the committer's
);

CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      BIGINT NOT NULL,
    kind    TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    text    TEXT   NOT NULL
);
