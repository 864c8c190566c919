-- What the last run that collected what nothing refers to found, for those who ask; and whether anybody has an embedding model.
--
-- Programs before this one collect without saying so here: what they did is in otel_collected, as before.

ALTER TABLE otel_collection
  ADD COLUMN looked_at timestamptz,
  ADD COLUMN held_back text,
  ADD COLUMN waits_for text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN otel_collection.looked_at IS 'When collecting was last run, and came to its end';
COMMENT ON COLUMN otel_collection.held_back IS 'Why that run retired nothing; null where it could';
COMMENT ON COLUMN otel_collection.waits_for IS 'What kept rows for longer than retention does, in that run';

-- Beside the job of maintaining: who has an embedding model, so that others ask for no hashes in place of vectors. Programs before
-- this one ask for them all the same, and who has a model ends that.
INSERT INTO otel_leases (job) VALUES ('embedding');
