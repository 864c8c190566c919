-- What questions about errors read: short ones alone are indexed by their letters, they are noted in one order, and
-- forgotten when no trace can have them. Programs before this one find the same, more slowly.
--
-- Deriving failed traces and asking for errors wait while the index is built.

-- A message of 4 KB has thousands of trigrams, each an entry of the index, and it is nearly always the only one of its
-- kind. The few long ones are compared one by one.
DROP INDEX otel_errors_trigrams;
CREATE INDEX otel_errors_trigrams ON otel_errors USING gin (otel_error_trigrams(error_type, error_message))
  WHERE coalesce(octet_length(error_type), 0) + coalesce(octet_length(error_message), 0) <= 512;
CREATE INDEX otel_errors_long ON otel_errors (last_day)
  WHERE coalesce(octet_length(error_type), 0) + coalesce(octet_length(error_message), 0) > 512;

-- A statement that writes new and known traces runs both triggers of otel_traces, one after the other, each with an order of
-- its own: two of them could wait for each other. So whoever writes traces notes their errors before, all in one order, and
-- leaves nothing to the triggers, which note those of programs that do not.
CREATE FUNCTION otel_note_errors_before(p_buckets timestamptz[], p_types text[], p_messages text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
  INSERT INTO otel.otel_errors AS e (error_id, first_day, last_day, error_type, error_message)
  SELECT n.error_id, n.first_day, n.last_day, n.error_type, n.error_message
  FROM (SELECT otel.otel_error_id(w.error_type, w.error_message) AS error_id,
               min(w.bucket)::date AS first_day, max(w.bucket)::date AS last_day,
               min(w.error_type) AS error_type, min(w.error_message) AS error_message
        FROM unnest(p_buckets, p_types, p_messages) AS w (bucket, error_type, error_message)
        WHERE w.error_type IS NOT NULL OR w.error_message IS NOT NULL
        GROUP BY 1) n
  WHERE NOT EXISTS (SELECT FROM otel.otel_errors k
                    WHERE k.error_id = n.error_id AND k.first_day <= n.first_day AND k.last_day >= n.last_day)
  ORDER BY n.error_id
  ON CONFLICT (error_id) DO UPDATE
  SET first_day = least(e.first_day, excluded.first_day), last_day = greatest(e.last_day, excluded.last_day);
$$;
COMMENT ON FUNCTION otel_note_errors_before IS 'Notes the errors of traces that are about to be written, in the order of their ids.';

-- Traces of any age are stored, so what is old is not gone: an error is forgotten when there is no partition left that could
-- hold a trace with it. The row that is locked is what makes partitions wait, so few are forgotten at a time. They are locked
-- in the order in which they are noted, or the two could wait for each other.
CREATE FUNCTION otel_forget_errors() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  forgotten bigint;
BEGIN
  PERFORM FROM otel_partitioned_tables WHERE parent = 'otel_traces' FOR UPDATE;
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
COMMENT ON FUNCTION otel_forget_errors IS 'Forgets errors that no stored trace can have any more, 5000 at most, and returns how many.';

REVOKE EXECUTE ON FUNCTION
  otel_note_errors_before(timestamptz[], text[], text[]),
  otel_forget_errors()
FROM PUBLIC;
