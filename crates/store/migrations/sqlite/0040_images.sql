-- Images for devices with two slots: update artifacts, whose files lie in a folder by their SHA-256.
CREATE TABLE images (
    artifact     TEXT   NOT NULL PRIMARY KEY, -- SHA-256 of the whole file, hexadecimal
    size         BIGINT NOT NULL,
    name         TEXT   NOT NULL,
    device_types TEXT   NOT NULL,             -- JSON list
    rootfs       TEXT   NOT NULL,             -- SHA-256 of the root file system that it leads to
    rootfs_size  BIGINT,                      -- NULL if the artifact does not hold it as a whole
    kind         TEXT   NOT NULL,             -- type of the payload: rootfs-image, mender-binary-delta
    provides     TEXT   NOT NULL,             -- JSON: key -> value
    depends      TEXT   NOT NULL,             -- JSON: key -> values of which one must be there; without device_type
    signed_by    TEXT,                        -- fingerprint of the key that was checked
    published_at BIGINT NOT NULL,
    published_by TEXT   NOT NULL,
    wanted_at    BIGINT NOT NULL              -- when it was published, or seen to be pinned last
);
