-- Imports: what each is of, how far it came, and how it ended.
CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    stream_id    TEXT NOT NULL,
    status       TEXT NOT NULL,
    spec         TEXT NOT NULL,
    objects      TEXT NOT NULL,
    progress     TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    completed_at INTEGER
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, id);
