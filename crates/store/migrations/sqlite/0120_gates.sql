-- What commands of the server and others said about commits, for gates.
CREATE TABLE gate_words (
    stage      TEXT   NOT NULL,             -- the stage of the merge that a command was asked for; '' for what others say
    gate       TEXT   NOT NULL,
    commit_id  TEXT   NOT NULL,
    say        TEXT   NOT NULL,             -- go, ask, stop
    reason     TEXT   NOT NULL,
    said_by    TEXT,                        -- the token; NULL for a command
    said_at    BIGINT NOT NULL,
    PRIMARY KEY (stage, gate, commit_id)
);
CREATE INDEX gate_words_by_commit ON gate_words (commit_id);
CREATE INDEX gate_words_by_time ON gate_words (said_at);
