-- Files that take the place of others, files that wait to be removed, and manifests that are to be written.

-- 0: written by a flush; more with each merge.
ALTER TABLE files ADD COLUMN level BIGINT NOT NULL DEFAULT 0 CHECK (level >= 0);
CREATE INDEX files_by_hour ON files (stream_id, hour, first_sequence);
-- What merging looks for: hours with several small files that were not merged for good.
CREATE INDEX files_to_merge ON files (stream_id, hour, bytes) WHERE level < 2;

-- Files that no list names any more, until their objects are gone.
CREATE TABLE retired_files (
    path           TEXT COLLATE "C" PRIMARY KEY,
    stream_id      TEXT COLLATE "C" NOT NULL REFERENCES streams (id),
    first_sequence BIGINT NOT NULL,
    last_sequence  BIGINT NOT NULL,
    hour           BIGINT NOT NULL,
    bytes          BIGINT NOT NULL,
    checksum       BIGINT NOT NULL,
    min_timestamp  BIGINT NOT NULL,
    max_timestamp  BIGINT NOT NULL,
    level          BIGINT NOT NULL,
    retired_at     BIGINT NOT NULL
);
CREATE INDEX retired_files_by_age ON retired_files (retired_at);
CREATE INDEX retired_files_by_stream ON retired_files (stream_id, first_sequence);

-- Hours whose files changed since their manifest was written, and how often.
CREATE TABLE manifest_debts (
    stream_id TEXT COLLATE "C" NOT NULL REFERENCES streams (id),
    hour      BIGINT NOT NULL,
    changes   BIGINT NOT NULL,
    PRIMARY KEY (stream_id, hour)
);
INSERT INTO manifest_debts SELECT DISTINCT stream_id, hour, 1 FROM files;
