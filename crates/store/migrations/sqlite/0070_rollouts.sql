-- How commits reach the devices of their stages in waves.
CREATE TABLE rollouts (
    stage      TEXT   NOT NULL,
    commit_id  TEXT   NOT NULL,
    state      TEXT   NOT NULL,             -- JSON of volary-plan's rollout::State
    says       TEXT   NOT NULL,             -- how it stands, in a sentence
    began_at   BIGINT NOT NULL,
    ended_at   BIGINT,                      -- finished, or another commit came; NULL while it goes on
    PRIMARY KEY (stage, commit_id)
);

-- Which devices were let begin: one that is not heard of since counts against the commit.
CREATE TABLE rollout_devices (
    stage      TEXT   NOT NULL,
    commit_id  TEXT   NOT NULL,
    device     TEXT   NOT NULL REFERENCES devices (name) ON DELETE CASCADE,
    began_at   BIGINT NOT NULL,
    PRIMARY KEY (stage, commit_id, device)
);
CREATE INDEX rollout_devices_by_device ON rollout_devices (device);
