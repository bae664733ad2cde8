-- Who may change now, where the fleet bounds how many devices of a site do so at once.
CREATE TABLE turns (
    device     TEXT   NOT NULL PRIMARY KEY REFERENCES devices (name) ON DELETE CASCADE,
    stage      TEXT   NOT NULL,
    site       TEXT   NOT NULL,             -- empty: the stage is one site
    commit_id  TEXT   NOT NULL,             -- what the device goes for
    after      TEXT   NOT NULL,             -- the device's newest report when it asked
    granted_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX turns_by_site ON turns (stage, site);

-- Results of convergences are kept longer than reports of health, which are many.
ALTER TABLE reports ADD COLUMN result BIGINT NOT NULL DEFAULT 0; -- 1: it is about a convergence
UPDATE reports SET result = 1 WHERE json_extract(body, '$.convergence') IS NOT NULL;
