-- People who sign in with a password of their own.
CREATE TABLE users (
    name        TEXT   NOT NULL PRIMARY KEY,
    role        TEXT   NOT NULL,
    password    TEXT   NOT NULL,            -- a PHC string: algorithm, parameters, salt, hash
    created_at  BIGINT NOT NULL,
    password_at BIGINT NOT NULL             -- when the password was set
);

-- Who is signed in, with a password or through another provider. Only hashes of the secrets.
CREATE TABLE sessions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    hash       TEXT   NOT NULL UNIQUE,
    person     TEXT   NOT NULL,             -- as records name them
    how        TEXT   NOT NULL,             -- password, oidc
    account    TEXT   REFERENCES users (name) ON DELETE CASCADE,
    role       TEXT   NOT NULL,             -- of somebody without an account here
    subject    TEXT,                        -- what the provider calls them
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_by_account ON sessions (account);

-- Which person did it, and how they had signed in; NULL: nobody, it happened.
ALTER TABLE events ADD COLUMN by_name TEXT;
ALTER TABLE events ADD COLUMN by_how TEXT;
ALTER TABLE events ADD COLUMN by_subject TEXT;
CREATE INDEX events_by_people ON events (id) WHERE by_name IS NOT NULL;
