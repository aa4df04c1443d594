-- The catalog, first version. Times are Unix microseconds; JSON columns hold JSON text.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE schemas (
    id                 TEXT PRIMARY KEY,
    namespace          TEXT NOT NULL,
    name               TEXT NOT NULL,
    description        TEXT NOT NULL,
    compatibility_mode TEXT NOT NULL,
    created_at         INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;

CREATE TABLE schema_versions (
    schema_id  TEXT NOT NULL REFERENCES schemas (id),
    version    INTEGER NOT NULL CHECK (version >= 1),
    definition TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (schema_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    description      TEXT NOT NULL,
    schema_id        TEXT NOT NULL REFERENCES schemas (id),
    state            TEXT NOT NULL CHECK (state IN ('active', 'paused', 'deleting')),
    key_fields       TEXT NOT NULL,
    labels           TEXT NOT NULL,
    retention        TEXT,
    partition_config TEXT,
    -- Grows with every change: the ETag.
    version          INTEGER NOT NULL,
    -- The last sequence number that ever was in a committed file. Never falls, even when files are removed: sequence
    -- numbers are given on from here after a restart.
    flushed_through  INTEGER NOT NULL DEFAULT 0,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL
) STRICT;

CREATE TABLE files (
    stream_id      TEXT NOT NULL REFERENCES streams (id),
    first_sequence INTEGER NOT NULL,
    last_sequence  INTEGER NOT NULL,
    -- Hours since the Unix epoch.
    hour           INTEGER NOT NULL,
    path           TEXT NOT NULL UNIQUE,
    bytes          INTEGER NOT NULL,
    -- CRC32C of the whole file.
    checksum       INTEGER NOT NULL,
    min_timestamp  INTEGER NOT NULL,
    max_timestamp  INTEGER NOT NULL,
    committed_at   INTEGER NOT NULL,
    PRIMARY KEY (stream_id, first_sequence),
    CHECK (last_sequence >= first_sequence),
    CHECK (max_timestamp >= min_timestamp)
) STRICT, WITHOUT ROWID;

CREATE INDEX files_by_time ON files (stream_id, max_timestamp);

CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'schema_admin', 'writer', 'reader')),
    -- Of the whole key text; the text itself is never stored.
    sha256     BLOB NOT NULL CHECK (length(sha256) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
