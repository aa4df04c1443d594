-- What readers see of a stream's records, and where those go that nothing can be made of.

-- The pipeline of the stream, if it has one, and every version that it or one before it has had, as JSON.
ALTER TABLE streams ADD COLUMN pipeline_id TEXT COLLATE "C";
ALTER TABLE streams ADD COLUMN pipelines TEXT;
CREATE UNIQUE INDEX streams_by_pipeline ON streams (pipeline_id) WHERE pipeline_id IS NOT NULL;
-- The stream of its dead letters.
ALTER TABLE streams ADD COLUMN dead_letters TEXT COLLATE "C";
