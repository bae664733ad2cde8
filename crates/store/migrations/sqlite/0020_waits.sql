-- A build that trouble of the machine put back waits, longer each time.
ALTER TABLE builds ADD COLUMN setbacks BIGINT NOT NULL DEFAULT 0;
ALTER TABLE builds ADD COLUMN not_before BIGINT;
