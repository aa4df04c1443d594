-- The catalog, first version. Times are Unix microseconds; columns of JSON hold it as text, but for labels, which are
-- searched. Texts that lists are ordered by compare as bytes.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO meta VALUES ('cluster_id', gen_random_uuid()::text), ('generation', '1');

CREATE TABLE schemas (
    id                 TEXT COLLATE "C" PRIMARY KEY,
    namespace          TEXT COLLATE "C" NOT NULL,
    name               TEXT COLLATE "C" NOT NULL,
    description        TEXT NOT NULL,
    compatibility_mode TEXT NOT NULL,
    policy             TEXT NOT NULL CHECK (policy IN ('strict', 'lenient')),
    -- Grows with every change: the ETag.
    version            BIGINT NOT NULL,
    created_at         BIGINT NOT NULL,
    updated_at         BIGINT NOT NULL,
    UNIQUE (namespace, name)
);

CREATE TABLE schema_versions (
    schema_id   TEXT COLLATE "C" NOT NULL REFERENCES schemas (id),
    version     BIGINT NOT NULL CHECK (version >= 1),
    definition  TEXT NOT NULL,
    -- SHA-256 of what the definition means.
    fingerprint BYTEA NOT NULL CHECK (length(fingerprint) = 32),
    created_at  BIGINT NOT NULL,
    retired_at  BIGINT,
    PRIMARY KEY (schema_id, version)
);

CREATE TABLE streams (
    id               TEXT COLLATE "C" PRIMARY KEY,
    name             TEXT COLLATE "C" NOT NULL,
    description      TEXT NOT NULL,
    schema_id        TEXT COLLATE "C" NOT NULL REFERENCES schemas (id),
    status           TEXT NOT NULL CHECK (status IN ('creating', 'active', 'paused', 'deleting', 'deleted')),
    key_fields       TEXT NOT NULL,
    labels           JSONB NOT NULL,
    retention        TEXT,
    partition_config TEXT,
    -- Grows with every change: the ETag.
    version          BIGINT NOT NULL,
    -- The last sequence number that ever was in a committed file. Never falls, even when files are removed: sequence
    -- numbers are given on from here after a restart.
    flushed_through  BIGINT NOT NULL DEFAULT 0,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL
);
-- The name of a tombstone is free.
CREATE UNIQUE INDEX streams_by_name ON streams (name) WHERE status <> 'deleted';
CREATE INDEX streams_by_schema ON streams (schema_id);

CREATE TABLE files (
    stream_id      TEXT COLLATE "C" NOT NULL REFERENCES streams (id),
    first_sequence BIGINT NOT NULL,
    last_sequence  BIGINT NOT NULL,
    -- Hours since the Unix epoch.
    hour           BIGINT NOT NULL,
    path           TEXT COLLATE "C" NOT NULL UNIQUE,
    bytes          BIGINT NOT NULL,
    -- CRC32C of the whole file.
    checksum       BIGINT NOT NULL,
    min_timestamp  BIGINT NOT NULL,
    max_timestamp  BIGINT NOT NULL,
    committed_at   BIGINT NOT NULL,
    PRIMARY KEY (stream_id, first_sequence),
    CHECK (last_sequence >= first_sequence),
    CHECK (max_timestamp >= min_timestamp)
);
CREATE INDEX files_by_time ON files (stream_id, max_timestamp);

CREATE TABLE api_keys (
    id           TEXT COLLATE "C" PRIMARY KEY,
    name         TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'schema_admin', 'writer', 'reader')),
    streams      TEXT NOT NULL,
    -- Of the whole key text; the text itself is never stored.
    sha256       BYTEA NOT NULL CHECK (length(sha256) = 32),
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT
);

CREATE TABLE audit_log (
    id          TEXT COLLATE "C" PRIMARY KEY,
    at          BIGINT NOT NULL,
    actor       TEXT NOT NULL,
    role        TEXT NOT NULL,
    action      TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id   TEXT COLLATE "C" NOT NULL,
    trace_id    TEXT NOT NULL,
    before      TEXT,
    after       TEXT
);
CREATE INDEX audit_log_by_object ON audit_log (object_id, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor, id);
CREATE FUNCTION audit_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$;
CREATE TRIGGER audit_log_keeps_its_lines BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows();

CREATE TABLE idempotent_requests (
    caller         TEXT COLLATE "C" NOT NULL,
    key            TEXT COLLATE "C" NOT NULL,
    request_sha256 BYTEA NOT NULL CHECK (length(request_sha256) = 32),
    status         BIGINT NOT NULL,
    body           TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);
