-- Which partitions of otel_traces hold traces that began long before them.
--
-- A trace's bucket is its start when it was first derived, and never changes; its start goes back when earlier spans arrive
-- later. So a trace never begins after its bucket, and seldom more than a day before it. Where one does is noted here: a
-- question about an old day leaves out all other partitions after that day, which cost it more than its own do.
--
-- Triggers note it, so programs before this one do too. Notes stay, a row a day at most: a partition may be detached and attached
-- again. Rows that come into a partition without its parent, as those of one that somebody fills and attaches, are not noted.
-- Traces that began before 2000 have no clock; who asks about that time looks everywhere.

CREATE TABLE otel_early_traces (
  bucket_from timestamptz PRIMARY KEY,
  bucket_to   timestamptz NOT NULL,
  first_start timestamptz NOT NULL
);
COMMENT ON TABLE otel_early_traces IS 'Buckets with traces that began more than a day before their bucket.';
COMMENT ON COLUMN otel_early_traces.bucket_from IS 'Their buckets, from: a day begins. -infinity while it is not yet known of traces before migration 28';
COMMENT ON COLUMN otel_early_traces.bucket_to IS 'Until, exclusive';
COMMENT ON COLUMN otel_early_traces.first_start IS 'The day in which the first trace with such a bucket began, of those that began more than a day before it and after 2000';

-- Of what is there nothing is known until migration 29 has looked.
INSERT INTO otel_early_traces VALUES ('-infinity', 'infinity', '-infinity');

CREATE FUNCTION otel_note_early_traces() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
BEGIN
  -- In one order, as all who write traces do.
  INSERT INTO otel.otel_early_traces AS e (bucket_from, bucket_to, first_start)
  SELECT n.day, n.day + interval '1 day', n.first_start
  FROM (SELECT date_trunc('day', w.bucket) AS day, date_trunc('day', min(w.start_time)) AS first_start FROM written w
        WHERE w.start_time < w.bucket - interval '1 day' AND w.start_time >= timestamptz '2000-01-01' GROUP BY 1) n
  WHERE NOT EXISTS (SELECT FROM otel.otel_early_traces k WHERE k.bucket_from = n.day AND k.first_start <= n.first_start)
  ORDER BY n.day
  ON CONFLICT (bucket_from) DO UPDATE SET first_start = least(e.first_start, excluded.first_start);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION otel_note_early_traces IS 'Notes which of the traces that were written began more than a day before their bucket.';
REVOKE EXECUTE ON FUNCTION otel_note_early_traces() FROM PUBLIC;

CREATE TRIGGER otel_early_inserted AFTER INSERT ON otel_traces
  REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION otel_note_early_traces();
CREATE TRIGGER otel_early_updated AFTER UPDATE ON otel_traces
  REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION otel_note_early_traces();
