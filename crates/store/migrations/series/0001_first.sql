-- Measurements of devices. Times are whole seconds since 1970. See docs/metrics-store.md.
CREATE TABLE devices (
    id    INTEGER PRIMARY KEY,
    name  TEXT    NOT NULL UNIQUE,
    state BLOB    NOT NULL              -- newest values and ids, as head.rs writes them
);

-- Names of series, which blocks call by number.
CREATE TABLE series (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
);

-- What was taken and is in no block yet: one row for each commit, as log.rs writes them.
CREATE TABLE log (
    seq  INTEGER PRIMARY KEY,
    body BLOB    NOT NULL
);

-- Blocks are appended in the order of their times, so that old ones lie beside each other.
CREATE TABLE blocks (
    id     INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    level  INTEGER NOT NULL,            -- 0: as measured, 1: five minutes, 2: an hour
    first  INTEGER NOT NULL,            -- the time of its first row
    last   INTEGER NOT NULL,            -- and of its last
    body   BLOB    NOT NULL             -- as block.rs writes it
);
CREATE INDEX blocks_by_device ON blocks (device, level, last);

-- Days of devices, counted from 1970, that have measurements in no rollup yet.
CREATE TABLE due (
    device INTEGER NOT NULL,
    day    INTEGER NOT NULL,
    PRIMARY KEY (device, day)
) WITHOUT ROWID;

-- Lines of devices' journals, bounded for each device.
CREATE TABLE errors (
    id       INTEGER PRIMARY KEY,
    device   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    unit     TEXT    NOT NULL,
    message  TEXT    NOT NULL
);
CREATE INDEX errors_by_device ON errors (device, at);
