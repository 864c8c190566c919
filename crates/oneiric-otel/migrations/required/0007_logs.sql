-- Logs by words, by template and by time.

---------- jobs ----------
CREATE TABLE otel_jobs (job text PRIMARY KEY);
COMMENT ON TABLE otel_jobs IS 'locking a row is the right to do that job, for as long as the transaction lasts';
INSERT INTO otel_jobs VALUES ('close_partitions');

---------- templates ----------
ALTER TABLE otel_logs ADD COLUMN template_id bigint;
COMMENT ON COLUMN otel_logs.template_id IS
  'hash of service, severity class and the body without what varies; null where an older version stored the record';
-- Newest first without a filter is what is asked most.
CREATE INDEX otel_logs_time ON otel_logs (time);

CREATE TABLE otel_log_templates (
  template_id  bigint PRIMARY KEY,
  first_seen   timestamptz NOT NULL DEFAULT now(),
  last_seen    date NOT NULL DEFAULT current_date,
  severity     smallint NOT NULL,
  service_name text NOT NULL,
  template     text NOT NULL
);
COMMENT ON TABLE otel_log_templates IS 'what log records say, without what varies from one to the next';
COMMENT ON COLUMN otel_log_templates.severity IS 'lowest severity number of the class: 1, 5, 9, 13, 17 or 21; 0 when unknown';
COMMENT ON COLUMN otel_log_templates.template IS 'the beginning of the body, with <*> where something varies';

CREATE TABLE otel_log_template_vectors (
  model_id    smallint NOT NULL,
  template_id bigint NOT NULL,
  tried_at    timestamptz NOT NULL DEFAULT now(),
  embedding   real[],
  PRIMARY KEY (model_id, template_id)
);
COMMENT ON TABLE otel_log_template_vectors IS 'vectors of log templates by model';
COMMENT ON COLUMN otel_log_template_vectors.tried_at IS 'when the vector was computed, or, of one that could not be, last tried';
COMMENT ON COLUMN otel_log_template_vectors.embedding IS 'null while the model cannot embed the template';
CREATE INDEX otel_log_template_vectors_tried ON otel_log_template_vectors (model_id, tried_at);

---------- words ----------
-- PostgreSQL's parser takes java.util.TimeoutException, redis-1.cache.internal and /api/v1 for one word each.
CREATE FUNCTION otel_split_words(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT replace(replace(replace(replace(replace(replace(replace(replace(replace(
           p_text, '.', ' '), '/', ' '), '-', ' '), '_', ' '), '@', ' '), '<', ' '), '&', ' '), '~', ' '), '+', ' ')
$$;
COMMENT ON FUNCTION otel_split_words IS 'a text in which the parser for full text finds single words';

-- Names in camel case count whole and in parts. What is beyond the first 100,000 characters is not looked at: a tsvector
-- has room for a megabyte.
CREATE FUNCTION otel_log_words(p_body text, p_body_json jsonb, p_event_name text, p_attributes jsonb) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 500 AS $$
  SELECT to_tsvector('pg_catalog.simple'::regconfig, w.words || ' ' || regexp_replace(w.words,
           '([[:lower:][:digit:]])(?=[[:upper:]])|([[:upper:]])(?=[[:upper:]][[:lower:]])', '\1\2 ', 'g'))
  FROM (SELECT otel.otel_split_words(left(
          coalesce(p_event_name || ' ', '')
          || coalesce((p_attributes ->> 'exception.type') || ' ', '')
          || coalesce((p_attributes ->> 'exception.message') || ' ', '')
          || coalesce(p_body, regexp_replace(p_body_json::text, '\\.', ' ', 'g'), '')
          || coalesce(' ' || (p_attributes ->> 'exception.stacktrace'), ''), 100000))) AS w (words)
$$;
COMMENT ON FUNCTION otel_log_words IS 'the words of a log record: of its body, its event name and its exception';

REVOKE EXECUTE ON FUNCTION
  otel_split_words(text),
  otel_log_words(text, jsonb, text, jsonb)
FROM PUBLIC;
