-- What a build leaves besides its packages, and why it was made.
ALTER TABLE builds ADD COLUMN buildinfo TEXT;                       -- SHA-256 of the .buildinfo that is kept
ALTER TABLE builds ADD COLUMN lintian   TEXT NOT NULL DEFAULT '[]'; -- what lintian said
ALTER TABLE builds ADD COLUMN because   TEXT;                       -- why it was made again; NULL: a new commit
ALTER TABLE builds ADD COLUMN caused_by BIGINT;                     -- the build of which it is a consequence
ALTER TABLE builds ADD COLUMN waits_for TEXT NOT NULL DEFAULT '[]'; -- builds that must be over before
ALTER TABLE builds ADD COLUMN needs     TEXT NOT NULL DEFAULT '[]'; -- the packages it was built with, by name
ALTER TABLE builds ADD COLUMN asks      BIGINT NOT NULL DEFAULT 0;  -- 1: its dependents are to be built again
ALTER TABLE builds ADD COLUMN planned   BIGINT NOT NULL DEFAULT 1;  -- 0: that is still to be done

-- Who is told of builds, from which one on: a new hook is not told the history.
CREATE TABLE status_hooks (
    name  TEXT   NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL
);

-- What each hook was told last of each build. What differs from the build's state is to be told.
CREATE TABLE statuses (
    build    BIGINT NOT NULL REFERENCES builds (id),
    hook     TEXT   NOT NULL,
    told     TEXT,
    attempts BIGINT NOT NULL DEFAULT 0,     -- since it was told something last
    next_at  BIGINT NOT NULL DEFAULT 0,
    problem  TEXT,
    PRIMARY KEY (build, hook)
);

-- Builds that are made twice to be compared.
CREATE TABLE reproductions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    build      BIGINT NOT NULL REFERENCES builds (id),
    asked_by   TEXT   NOT NULL,
    state      TEXT   NOT NULL,             -- queued, running, same, different, failed
    reason     TEXT,
    varied     TEXT   NOT NULL DEFAULT '[]',
    packages   TEXT   NOT NULL DEFAULT '[]',
    queued_at  BIGINT NOT NULL,
    started_at BIGINT,
    ended_at   BIGINT
);
CREATE INDEX reproductions_by_build ON reproductions (build, id);
