-- A hash in place of a vector, where somebody asks for it and no embedding model can be loaded: `embedding_fallback = "hash"`.
--
-- It stands nowhere: it is a function of the trace's id, and the view traces shows it in a column of its own for traces
-- that have no vector, while the fallback is on. So no index, search or comparison ever meets it, and it is gone when a
-- vector is there. Programs before this one never switch it on or off; they see one more column.

CREATE TABLE otel_embedding_fallback (
  kind   text PRIMARY KEY CHECK (kind = 'hash'),
  since  timestamptz NOT NULL DEFAULT now(),
  reason text NOT NULL
);
COMMENT ON TABLE otel_embedding_fallback IS 'A row while traces without a vector show a hash in its place, which is no embedding.';
COMMENT ON COLUMN otel_embedding_fallback.kind IS 'What is shown: hash, made of the id of the trace alone';
COMMENT ON COLUMN otel_embedding_fallback.since IS 'Since when';
COMMENT ON COLUMN otel_embedding_fallback.reason IS 'Why there is no embedding model';

-- 384 numbers, as a vector of length 1: twelve times 32 bytes of SHA-256.
CREATE FUNCTION otel_hash_vector(p_trace_id uuid) RETURNS real[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_agg((n / length)::real ORDER BY block, place)
  FROM (SELECT block, place, n, sqrt(sum(n * n) OVER ()) AS length
        FROM (SELECT block, place, get_byte(sha256(uuid_send(p_trace_id) || int4send(block)), place) - 127.5::double precision AS n
              FROM generate_series(0, 11) AS block, generate_series(0, 31) AS place) bytes) numbers
$$;
COMMENT ON FUNCTION otel_hash_vector IS 'A hash of a trace''s id in the form of a vector. It says nothing about the trace: no embedding.';
REVOKE EXECUTE ON FUNCTION otel_hash_vector(uuid) FROM PUBLIC;

-- The view traces gets a column more.
DO $$
DECLARE
  known text := pg_get_functiondef('otel.otel_make_traces_view()'::regprocedure);
  made  text := replace(replace(known,
    '(24, false, ''partition_time''',
    '(25, false, ''embedding_fallback'', ''CASE WHEN %2$s AND EXISTS (SELECT FROM otel.otel_embedding_fallback) THEN otel.otel_hash_vector(t.trace_id) END'',
     ''NOT an embedding: a hash of trace_id in place of a vector, while no embedding model can be loaded and embedding_fallback = "hash" is set. Comparing two of them says nothing''),
    (24, false, ''partition_time'''),
    'format(w.expression, v.type)',
    'format(w.expression, v.type, CASE WHEN model IS NULL THEN ''true'' ELSE ''e.text_id IS NULL'' END)');
BEGIN
  IF position('embedding_fallback' IN made) = 0 OR position('e.text_id IS NULL' IN made) = 0 THEN
    RAISE EXCEPTION 'otel_make_traces_view is not the function that migration 5 has made';
  END IF;
  EXECUTE made;
END $$;
SELECT otel_make_traces_view();
