-- Versions of objects, retirement, tombstones, the audit log and remembered requests. Run with foreign keys off, and checked
-- after it. The versions of schemas are moved over by the program, which knows their fingerprints.

INSERT INTO meta VALUES ('generation', '1');

ALTER TABLE schemas ADD COLUMN policy TEXT NOT NULL DEFAULT 'strict' CHECK (policy IN ('strict', 'lenient'));
-- Grows with every change: the ETag.
ALTER TABLE schemas ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE schemas ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
UPDATE schemas SET
    version = (SELECT max(version) FROM schema_versions v WHERE v.schema_id = schemas.id),
    updated_at = (SELECT max(created_at) FROM schema_versions v WHERE v.schema_id = schemas.id);

ALTER TABLE schema_versions RENAME TO schema_versions_before;
CREATE TABLE schema_versions (
    schema_id   TEXT NOT NULL REFERENCES schemas (id),
    version     INTEGER NOT NULL CHECK (version >= 1),
    definition  TEXT NOT NULL,
    -- SHA-256 of what the definition means.
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    created_at  INTEGER NOT NULL,
    retired_at  INTEGER,
    PRIMARY KEY (schema_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams_now (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL,
    description      TEXT NOT NULL,
    schema_id        TEXT NOT NULL REFERENCES schemas (id),
    status           TEXT NOT NULL CHECK (status IN ('creating', 'active', 'paused', 'deleting', 'deleted')),
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
INSERT INTO streams_now (id, name, description, schema_id, status, key_fields, labels, retention, partition_config, version,
                         flushed_through, created_at, updated_at)
    SELECT id, name, description, schema_id, state, key_fields, labels, retention, partition_config, version,
           flushed_through, created_at, updated_at FROM streams;
DROP TABLE streams;
ALTER TABLE streams_now RENAME TO streams;
-- The name of a tombstone is free.
CREATE UNIQUE INDEX streams_by_name ON streams (name) WHERE status <> 'deleted';
CREATE INDEX streams_by_schema ON streams (schema_id);

ALTER TABLE api_keys ADD COLUMN streams TEXT NOT NULL DEFAULT '[]';
ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;

CREATE TABLE audit_log (
    id          TEXT PRIMARY KEY,
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    role        TEXT NOT NULL,
    action      TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id   TEXT NOT NULL,
    trace_id    TEXT NOT NULL,
    before      TEXT,
    after       TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_log_by_object ON audit_log (object_id, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
CREATE TRIGGER audit_log_keeps_its_lines BEFORE UPDATE ON audit_log
    BEGIN SELECT raise(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER audit_log_loses_no_line BEFORE DELETE ON audit_log
    BEGIN SELECT raise(ABORT, 'the audit log only grows'); END;

CREATE TABLE idempotent_requests (
    caller         TEXT NOT NULL,
    key            TEXT NOT NULL,
    request_sha256 BLOB NOT NULL CHECK (length(request_sha256) = 32),
    status         INTEGER NOT NULL,
    body           TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);
