-- Distinct errors of traces, so that an error is looked for among messages and not among traces.
--
-- They are kept by triggers: what an older program derives beside this one, or derives again, is as right as the rest.
-- The index on otel_traces is on a function of the two columns for the same reason. Derivation, and nothing else, waits
-- while this migration reads the traces that are there.

CREATE FUNCTION otel_error_id(p_type text, p_message text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(coalesce(p_type, '') || chr(1) || coalesce(p_message, ''), 0);
COMMENT ON FUNCTION otel_error_id IS 'Names the error of this type and message: the same in every row and at any time.';

-- Letters are compared without their case as the locale C knows it, which is ASCII's and the same in every database.
-- Expensive on purpose: computing this for every row of a scan is never the better plan.
CREATE FUNCTION otel_trigrams(p_text text) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 10000 AS $$
  SELECT coalesce(array_agg(DISTINCT pg_catalog.hashtext(t.trigram COLLATE "C")), '{}')
  FROM (SELECT c.letter || lead(c.letter) OVER w || lead(c.letter, 2) OVER w AS trigram
        FROM pg_catalog.string_to_table(pg_catalog.lower(p_text COLLATE "C"), NULL) WITH ORDINALITY AS c (letter, place)
        WINDOW w AS (ORDER BY c.place)) t
  WHERE t.trigram IS NOT NULL
$$;
COMMENT ON FUNCTION otel_trigrams IS 'Hashes of every three neighbouring characters: a text that contains another has all of its trigrams.';

CREATE FUNCTION otel_error_trigrams(p_type text, p_message text) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 10000 AS $$
  SELECT otel.otel_trigrams(coalesce(p_type, '') || chr(1) || coalesce(p_message, ''))
$$;
COMMENT ON FUNCTION otel_error_trigrams IS 'Trigrams of an error''s type and message.';

CREATE TABLE otel_errors (
  error_id      bigint PRIMARY KEY,
  first_day     date NOT NULL,
  last_day      date NOT NULL,
  error_type    text,
  error_message text
) WITH (fillfactor = 90);
COMMENT ON TABLE otel_errors IS 'Distinct errors of traces; kept by triggers on otel_traces.';
COMMENT ON COLUMN otel_errors.error_id IS 'otel_error_id(error_type, error_message)';
COMMENT ON COLUMN otel_errors.first_day IS 'No trace with this error has an earlier bucket (UTC).';
COMMENT ON COLUMN otel_errors.last_day IS 'No trace with this error has a later bucket (UTC).';
COMMENT ON COLUMN otel_errors.error_type IS 'As in otel_traces.';
COMMENT ON COLUMN otel_errors.error_message IS 'As in otel_traces.';
CREATE INDEX otel_errors_trigrams ON otel_errors USING gin (otel_error_trigrams(error_type, error_message));

-- Rows of otel_errors are locked in the order of their ids, and only those that change.
CREATE FUNCTION otel_note_errors() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
BEGIN
  INSERT INTO otel.otel_errors AS e (error_id, first_day, last_day, error_type, error_message)
  SELECT n.error_id, n.first_day, n.last_day, n.error_type, n.error_message
  FROM (SELECT otel.otel_error_id(w.error_type, w.error_message) AS error_id,
               min(w.bucket)::date AS first_day, max(w.bucket)::date AS last_day,
               min(w.error_type) AS error_type, min(w.error_message) AS error_message
        FROM written w
        WHERE w.error_type IS NOT NULL OR w.error_message IS NOT NULL
        GROUP BY 1) n
  WHERE NOT EXISTS (SELECT FROM otel.otel_errors k
                    WHERE k.error_id = n.error_id AND k.first_day <= n.first_day AND k.last_day >= n.last_day)
  ORDER BY n.error_id
  ON CONFLICT (error_id) DO UPDATE
  SET first_day = least(e.first_day, excluded.first_day), last_day = greatest(e.last_day, excluded.last_day);
  RETURN NULL;
END $$;
COMMENT ON FUNCTION otel_note_errors IS 'Notes the errors of traces that were written.';
CREATE TRIGGER otel_traces_new_errors AFTER INSERT ON otel_traces
  REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION otel_note_errors();
CREATE TRIGGER otel_traces_other_errors AFTER UPDATE ON otel_traces
  REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION otel_note_errors();

INSERT INTO otel_errors (error_id, first_day, last_day, error_type, error_message)
SELECT otel_error_id(error_type, error_message), (min(bucket) AT TIME ZONE 'UTC')::date, (max(bucket) AT TIME ZONE 'UTC')::date,
       min(error_type), min(error_message)
FROM otel_traces WHERE error_type IS NOT NULL OR error_message IS NOT NULL
GROUP BY 1;

CREATE INDEX otel_traces_error_id ON otel_traces (otel_error_id(error_type, error_message), start_time)
  WHERE error_type IS NOT NULL OR error_message IS NOT NULL;
CREATE INDEX otel_traces_with_error ON otel_traces (start_time) WHERE error_type IS NOT NULL OR error_message IS NOT NULL;

REVOKE EXECUTE ON FUNCTION
  otel_error_id(text, text),
  otel_trigrams(text),
  otel_error_trigrams(text, text),
  otel_note_errors()
FROM PUBLIC;
