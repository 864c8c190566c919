-- From one embedding model to another, such as another precision: the one that was there answers until the new one is
-- complete.
--
-- Programs before this one do not look at the new table: they answer with the model that they are set to, complete or not, as
-- they did. A model that they register gets its row when a newer program works with it.

CREATE TABLE otel_embedding_progress (
  model_id    smallint PRIMARY KEY,
  renews_to   bigint NOT NULL DEFAULT 0,
  complete_at timestamptz,
  last_served timestamptz
);
COMMENT ON TABLE otel_embedding_progress IS 'How far the vectors of a model are.';
COMMENT ON COLUMN otel_embedding_progress.model_id IS 'The model';
COMMENT ON COLUMN otel_embedding_progress.renews_to IS 'Texts up to this one were there before it: it gets them while another model answers';
COMMENT ON COLUMN otel_embedding_progress.complete_at IS 'Since when all those have their vectors, and the vectors their index; null until then';
COMMENT ON COLUMN otel_embedding_progress.last_served IS 'When it last answered for another one that was not complete; a day later it gets no new work';

-- A model that lacks few vectors is complete: they wait as work, or fail again and again. If none is, the one with the most
-- answers until another is complete, and gets what it lacks before.
DO $$
DECLARE
  model   smallint;
  newest  bigint := coalesce((SELECT max(text_id) FROM otel.otel_texts), 0);
  texts   bigint := (SELECT count(*) FROM otel.otel_texts);
  vectors bigint;
  most    bigint := 0;
  fullest smallint;
BEGIN
  FOR model IN SELECT model_id FROM otel.otel_embedding_models ORDER BY model_id LOOP
    vectors := 0;
    IF to_regclass(format('otel.otel_embeddings_%s', model)) IS NOT NULL THEN
      EXECUTE format('SELECT count(*) FROM otel.otel_embeddings_%s e JOIN otel.otel_texts USING (text_id)', model) INTO vectors;
    END IF;
    INSERT INTO otel.otel_embedding_progress (model_id, renews_to, complete_at)
    VALUES (model, newest, CASE WHEN vectors > 0 AND texts - vectors <= 1 + texts / 100 THEN now() END);
    IF vectors > 0 AND vectors >= most THEN
      most := vectors; fullest := model;
    END IF;
  END LOOP;
  UPDATE otel.otel_embedding_progress SET complete_at = now()
  WHERE model_id = fullest AND NOT EXISTS (SELECT FROM otel.otel_embedding_progress WHERE complete_at IS NOT NULL);
END $$;

-- The model whose vectors the view traces shows: the one that was completed last, and before there is any the newest.
CREATE FUNCTION otel_shown_model() RETURNS smallint
LANGUAGE sql STABLE SET search_path = pg_catalog, otel, pg_temp AS $$
  SELECT m.model_id FROM otel.otel_embedding_models m LEFT JOIN otel.otel_embedding_progress p USING (model_id)
  WHERE to_regclass(format('otel.otel_embeddings_%s', m.model_id)) IS NOT NULL
  ORDER BY p.complete_at DESC NULLS LAST, m.model_id DESC LIMIT 1
$$;
COMMENT ON FUNCTION otel_shown_model IS 'The model whose vectors the view traces shows.';

-- The function that makes the view asks that one instead of taking the newest model.
DO $$
DECLARE
  known text := pg_get_functiondef('otel.otel_make_traces_view()'::regprocedure);
  made  text := regexp_replace(known, 'SELECT max\(model_id\) INTO model .*?;', 'model := otel.otel_shown_model();');
BEGIN
  IF made = known THEN
    RAISE EXCEPTION 'otel_make_traces_view is not the function that migration 5 has made';
  END IF;
  EXECUTE made;
END $$;

-- Says that a model is complete: from now on it answers, and the view shows its vectors.
CREATE FUNCTION otel_complete_model(p_model smallint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET lock_timeout = '2s' AS $$
BEGIN
  IF to_regclass(format('otel.otel_embeddings_%s', p_model)) IS NULL
     OR NOT EXISTS (SELECT FROM otel.otel_embedding_models WHERE model_id = p_model) THEN
    RAISE EXCEPTION 'there is no embedding model %', p_model;
  END IF;
  INSERT INTO otel.otel_embedding_progress AS p (model_id, complete_at) VALUES (p_model, now())
  ON CONFLICT (model_id) DO UPDATE SET complete_at = now() WHERE p.complete_at IS NULL;
  IF FOUND THEN
    PERFORM otel_make_traces_view();
  END IF;
END $$;
COMMENT ON FUNCTION otel_complete_model IS 'Notes that a model has all its vectors, and shows them in the view traces.';

-- Drops a model that another one has replaced: a day after its last use if that is one of the same name, which differs in
-- precision alone, and a month after it otherwise, since its vectors may have cost money. Returns which; null when
-- there is none, or somebody is at it.
CREATE FUNCTION otel_drop_replaced_model() RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  replaced smallint;
BEGIN
  SELECT o.model_id INTO replaced
  FROM otel.otel_embedding_models o LEFT JOIN otel.otel_embedding_progress p USING (model_id)
  WHERE EXISTS (
    SELECT FROM otel.otel_embedding_models n JOIN otel.otel_embedding_progress q USING (model_id)
    WHERE n.model_id <> o.model_id AND q.complete_at IS NOT NULL AND n.last_used > now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM otel.otel_embedding_work w WHERE w.model_id = n.model_id AND w.attempts = 0)
      AND greatest(o.last_used, p.last_served)
            < now() - CASE WHEN n.name = o.name THEN interval '1 day' ELSE interval '30 days' END)
  ORDER BY o.model_id LIMIT 1;
  IF replaced IS NULL THEN
    RETURN NULL;
  END IF;
  BEGIN
    -- As when it was registered: whoever stores texts ends first, or does not see it any more.
    LOCK TABLE otel.otel_texts IN SHARE ROW EXCLUSIVE MODE;
    -- It may have come back into use while the lock was waited for.
    PERFORM FROM otel.otel_embedding_models o LEFT JOIN otel.otel_embedding_progress p USING (model_id)
    WHERE o.model_id = replaced AND greatest(o.last_used, p.last_served) < now() - interval '1 day';
    IF NOT FOUND THEN
      RETURN NULL;
    END IF;
    DELETE FROM otel.otel_embedding_work WHERE model_id = replaced;
    DELETE FROM otel.otel_log_template_vectors WHERE model_id = replaced;
    DELETE FROM otel.otel_embedding_progress WHERE model_id = replaced;
    DELETE FROM otel.otel_embedding_models WHERE model_id = replaced;
    PERFORM otel_make_traces_view();
    EXECUTE format('DROP TABLE IF EXISTS otel.otel_embeddings_%s', replaced);
  EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
  END;
  RETURN replaced;
END $$;
COMMENT ON FUNCTION otel_drop_replaced_model IS 'Drops the vectors of a model that another one has replaced and that nobody uses any more.';

REVOKE EXECUTE ON FUNCTION otel_shown_model(), otel_complete_model(smallint), otel_drop_replaced_model() FROM PUBLIC;
