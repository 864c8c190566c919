-- Which partitions of otel_traces hold traces that began long before them.
--
-- A trace's bucket is its start when it was first derived, and never changes; its start goes back when earlier spans arrive
-- later. So a trace never begins after its bucket, and seldom more than a day before it. Where one does is noted here: a
-- question about an old day leaves out all other partitions after that day, which cost it more than its own do.
--
-- Triggers note it, so programs before this one do too. Rows that come into a partition without its parent, such as those of a
-- partition that somebody fills and attaches, are not noted.

CREATE TABLE otel_early_traces (
  bucket_from timestamptz PRIMARY KEY,
  bucket_to   timestamptz NOT NULL,
  first_start timestamptz NOT NULL
);
COMMENT ON TABLE otel_early_traces IS 'Buckets with traces that began more than a day before their bucket.';
COMMENT ON COLUMN otel_early_traces.bucket_from IS 'Their buckets, from: a day begins. -infinity while it is not yet known of traces before migration 28';
COMMENT ON COLUMN otel_early_traces.bucket_to IS 'Until, exclusive';
COMMENT ON COLUMN otel_early_traces.first_start IS 'No trace with such a bucket began earlier, of those that began more than a day before it';

-- Of what is there nothing is known until migration 29 has looked.
INSERT INTO otel_early_traces VALUES ('-infinity', 'infinity', '-infinity');

CREATE FUNCTION otel_note_early_traces() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
BEGIN
  -- In one order, as all who write traces do.
  INSERT INTO otel.otel_early_traces AS e (bucket_from, bucket_to, first_start)
  SELECT n.day, n.day + interval '1 day', n.first_start
  FROM (SELECT date_trunc('day', w.bucket) AS day, min(w.start_time) AS first_start FROM written w
        WHERE w.start_time < w.bucket - interval '1 day' GROUP BY 1) n
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

-- What forgets errors forgets these too: it is called when partitions were dropped, and makes those who make partitions wait.
CREATE OR REPLACE FUNCTION otel_forget_errors() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  forgotten bigint;
BEGIN
  PERFORM FROM otel_partitioned_tables WHERE parent = 'otel_traces' FOR UPDATE;
  DELETE FROM otel_early_traces e
  WHERE isfinite(e.bucket_from)
    AND NOT EXISTS (SELECT FROM otel_partitions('otel_traces') p
                    WHERE p.lower_bound < e.bucket_to AND p.upper_bound > e.bucket_from);
  WITH days AS MATERIALIZED (
    SELECT DISTINCT e.first_day, e.last_day FROM otel_errors e
  ), gone AS MATERIALIZED (
    SELECT d.first_day, d.last_day FROM days d
    WHERE NOT EXISTS (SELECT FROM otel_partitions('otel_traces') p
                      WHERE p.lower_bound < d.last_day + 1 AND p.upper_bound > d.first_day)
  ), locked AS MATERIALIZED (
    SELECT e.error_id FROM otel_errors e JOIN gone g ON e.first_day = g.first_day AND e.last_day = g.last_day
    ORDER BY e.error_id LIMIT 5000 FOR UPDATE OF e
  )
  DELETE FROM otel_errors e USING locked l WHERE e.error_id = l.error_id;
  GET DIAGNOSTICS forgotten = ROW_COUNT;
  RETURN forgotten;
END $$;
COMMENT ON FUNCTION otel_forget_errors IS 'Forgets errors that no stored trace can have any more, 5000 at most, and returns how many; and which buckets that are gone had early traces.';
