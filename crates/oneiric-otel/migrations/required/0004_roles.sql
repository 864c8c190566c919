-- What needs the rights of an owner at run time, as functions that a role without them may call: a server can then write
-- as a role that owns nothing. They run with the rights of their owner. So names of tables are built from numbers or
-- from the configuration, what else they need they find in the catalogs, the search path is pinned, and nobody may call
-- them unless it is granted.

CREATE TABLE otel_roles (
  role regrole PRIMARY KEY,
  part text NOT NULL CHECK (part IN ('writer', 'reader'))
);
COMMENT ON TABLE otel_roles IS 'roles that were granted their part: they get what later versions of the schema add';

---------- partitions ----------
ALTER FUNCTION otel_ensure_partition(text, timestamptz) SECURITY DEFINER;
ALTER FUNCTION otel_make_partitions() SECURITY DEFINER;

---------- vectors ----------
CREATE FUNCTION otel_vector_schema() RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, otel, pg_temp AS $$
  -- The type must be the extension's: the schema may be one in which anybody can make types.
  SELECT n.nspname
  FROM pg_extension e
  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                  AND d.classid = 'pg_type'::regclass AND d.deptype = 'e'
  JOIN pg_type t ON t.oid = d.objid AND t.typname = 'halfvec'
  JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE e.extname = 'vector'
$$;
COMMENT ON FUNCTION otel_vector_schema IS 'the schema of pgvector, null without it';

-- Gives a model its table, every text as work, and the view traces its vectors. Returns the model's id, or null when it
-- has one already.
CREATE FUNCTION otel_register_model(p_name text, p_precision text, p_dimension integer) RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp AS $$
DECLARE
  model    smallint;
  vectors  text;
  vector   text;
  writer   name;
BEGIN
  IF otel_vector_schema() IS NULL THEN
    RAISE EXCEPTION 'pgvector is not installed in this database';
  END IF;
  vector := format('%I.halfvec', otel_vector_schema());
  -- Derivations that stored texts before they could see the model end first; those after will see it.
  LOCK TABLE otel.otel_texts IN SHARE ROW EXCLUSIVE MODE;
  INSERT INTO otel.otel_embedding_models (name, precision, dimension) VALUES (p_name, p_precision, p_dimension)
  ON CONFLICT (name, precision) DO NOTHING
  RETURNING model_id INTO model;
  IF model IS NULL THEN
    RETURN NULL;
  END IF;
  vectors := format('otel.otel_embeddings_%s', model);
  EXECUTE format(
    'CREATE TABLE %s (
       text_id bigint PRIMARY KEY,
       generated_at timestamptz NOT NULL DEFAULT now(),
       embedding %s(%s) NOT NULL
     )', vectors, vector, p_dimension);
  -- In line, where a scan finds it at once, unless a row would not fit its page.
  EXECUTE format('ALTER TABLE %s ALTER COLUMN embedding SET STORAGE %s', vectors,
                 CASE WHEN p_dimension <= 2000 THEN 'PLAIN' ELSE 'EXTERNAL' END);
  FOR writer IN SELECT r.rolname FROM otel.otel_roles g JOIN pg_roles r ON r.oid = g.role WHERE g.part = 'writer' LOOP
    EXECUTE format('GRANT SELECT, INSERT ON TABLE %s TO %I', vectors, writer);
  END LOOP;
  INSERT INTO otel.otel_embedding_work (text_id, model_id) SELECT text_id, model FROM otel.otel_texts
  ON CONFLICT DO NOTHING;
  -- With the vector of the first text. Columns only ever come after those that are there.
  EXECUTE format(
    'CREATE OR REPLACE VIEW otel.traces AS
     SELECT replace(t.trace_id::text, ''-'', '''') AS trace_id, t.start_time, t.end_time,
            t.duration_ns / 1e6::double precision AS duration_ms, t.status, t.service_name, t.root_name, t.services,
            t.span_count, t.error_count, t.log_count, t.error_type, t.error_message, x.text, t.root_seen,
            t.duration_ns,
            e.embedding::%s AS embedding,
            CASE WHEN e.text_id IS NOT NULL THEN m.name END AS embedding_model,
            e.generated_at AS embedding_generated_at
     FROM otel.otel_traces t
     LEFT JOIN otel.otel_texts x ON x.text_id = t.text_ids[1]
     LEFT JOIN %s e ON e.text_id = t.text_ids[1]
     LEFT JOIN otel.otel_embedding_models m ON m.model_id = %s', vector, vectors, model);
  RETURN model;
END $$;
COMMENT ON FUNCTION otel_register_model IS 'makes the table of a model''s vectors; null when the model is there already';

-- Builds the index of a model's vectors, unless it is there. Reading goes on meanwhile, storing vectors waits. The owner
-- of the table can do better, with CREATE INDEX CONCURRENTLY, which is not possible in a function. Returns whether it
-- was built: not when somebody else is at the table, as another server that builds it; waiting for longer than this would
-- be a deadlock with a concurrent build, which waits for all who wait.
CREATE FUNCTION otel_build_vector_index(p_model smallint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  vectors    text := format('otel.otel_embeddings_%s', p_model);
  index_name text := format('otel_embeddings_%s_hnsw', p_model);
BEGIN
  IF NOT EXISTS (SELECT FROM otel.otel_embedding_models WHERE model_id = p_model) THEN
    RAISE EXCEPTION 'there is no embedding model %', p_model;
  END IF;
  BEGIN
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', vectors);
    IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('otel.' || index_name) AND NOT indisvalid) THEN
      EXECUTE format('DROP INDEX otel.%I', index_name);
    END IF;
  EXCEPTION WHEN lock_not_available THEN
    RETURN false;
  END;
  IF to_regclass('otel.' || index_name) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE INDEX %I ON %s USING hnsw (embedding %I.halfvec_cosine_ops) WITH (m = 16, ef_construction = 64)',
                 index_name, vectors, otel_vector_schema());
  RETURN true;
END $$;
COMMENT ON FUNCTION otel_build_vector_index IS 'builds the index of a model''s vectors, for a role that does not own the table';

-- By name: pgvector may lie in this schema too, and its functions are not ours.
REVOKE EXECUTE ON FUNCTION
  otel_text_words(text),
  otel_partitions(text),
  otel_ensure_partition(text, timestamptz),
  otel_make_partitions(),
  otel_vector_schema(),
  otel_register_model(text, text, integer),
  otel_build_vector_index(smallint)
FROM PUBLIC;
