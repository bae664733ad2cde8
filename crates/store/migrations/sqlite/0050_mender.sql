-- Devices whose client is Mender's: what they are known by, and which images they were sent.
ALTER TABLE devices ADD COLUMN client TEXT NOT NULL DEFAULT 'agent'; -- agent, mender

CREATE TABLE mender_devices (
    fingerprint TEXT   NOT NULL PRIMARY KEY REFERENCES devices (fingerprint) ON DELETE CASCADE,
    identity    TEXT   NOT NULL,             -- its identity data, JSON as it came
    provides    TEXT   NOT NULL DEFAULT '{}', -- of its newest question for an update, JSON
    inventory   TEXT   NOT NULL DEFAULT '{}', -- JSON: name -> values
    obstacle    TEXT   NOT NULL DEFAULT ''    -- why it is sent no update, if so
);

CREATE TABLE mender_deployments (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT   NOT NULL UNIQUE,
    fingerprint TEXT   NOT NULL REFERENCES devices (fingerprint) ON DELETE CASCADE,
    stage       TEXT   NOT NULL,
    commit_id   TEXT   NOT NULL,             -- whose lock pins the image
    device_type TEXT   NOT NULL,
    name        TEXT   NOT NULL,             -- of the image
    artifact    TEXT   NOT NULL,             -- SHA-256 of the pinned artifact
    served      TEXT   NOT NULL,             -- SHA-256 of the one that the device is sent
    provides    TEXT   NOT NULL,             -- of the device when it began, JSON
    state       TEXT   NOT NULL,
    substate    TEXT   NOT NULL DEFAULT '',
    furthest    TEXT   NOT NULL,             -- the last state of the way there that was reached
    held        BIGINT NOT NULL DEFAULT 0,   -- 1: the image is not tried again on this device
    released    BIGINT NOT NULL DEFAULT 0,   -- 1: somebody said that how it ended counts no more
    created_at  BIGINT NOT NULL,
    changed_at  BIGINT NOT NULL,
    finished_at BIGINT,
    log         TEXT
);
CREATE INDEX mender_deployments_by_device ON mender_deployments (fingerprint, seq);
