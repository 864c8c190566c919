-- The telemetry tables. Runs inside one transaction with search_path = otel, public.
--
-- Conventions
--   * times are timestamptz floored to the microsecond; what is below it (0-999 ns) stands in a smallint beside it;
--   * unsigned 64-bit numbers stand in bigint with the same bits;
--   * columns hold what SQL can say; "residue" holds, as a small protobuf message, what it cannot (the order of
--     attributes, NUL, NaN, bytes, odd ids), so that a record read back equals the record that came;
--   * fixed-width columns first: PostgreSQL pads each column to its alignment.

---------- resources and scopes: one row per distinct content ----------
CREATE TABLE otel_resources (
  resource_id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  content_hash           uuid NOT NULL UNIQUE,
  service_name           text NOT NULL,
  service_namespace      text,
  service_version        text,
  service_instance_id    text,
  deployment_environment text,
  schema_url             text NOT NULL,
  attributes             jsonb NOT NULL,
  envelope               bytea NOT NULL,
  first_seen             timestamptz NOT NULL DEFAULT now(),
  last_seen              date NOT NULL DEFAULT current_date
);
COMMENT ON TABLE otel_resources IS 'distinct OpenTelemetry resources with their schema URL';
COMMENT ON COLUMN otel_resources.content_hash IS 'hash of the canonical encoding of resource and schema URL';
COMMENT ON COLUMN otel_resources.envelope IS 'resource and schema URL as they came: a ResourceSpans message without spans';
CREATE INDEX otel_resources_service ON otel_resources (left(service_name, 256));

CREATE TABLE otel_scopes (
  scope_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  content_hash uuid NOT NULL UNIQUE,
  name         text NOT NULL,
  version      text NOT NULL,
  schema_url   text NOT NULL,
  attributes   jsonb NOT NULL,
  envelope     bytea NOT NULL,
  first_seen   timestamptz NOT NULL DEFAULT now(),
  last_seen    date NOT NULL DEFAULT current_date
);
COMMENT ON TABLE otel_scopes IS 'distinct instrumentation scopes with their schema URL';
COMMENT ON COLUMN otel_scopes.envelope IS 'scope and schema URL as they came: a ScopeSpans message without spans';

---------- spans ----------
CREATE TABLE otel_spans (
  start_time               timestamptz NOT NULL,
  duration_ns              bigint NOT NULL,
  span_hash                bigint NOT NULL,
  resource_id              bigint NOT NULL,
  trace_id                 uuid NOT NULL,
  scope_id                 integer NOT NULL,
  flags                    integer NOT NULL,
  dropped_attributes_count integer,
  dropped_events_count     integer,
  dropped_links_count      integer,
  start_ns                 smallint NOT NULL,
  http_status_code         smallint,
  span_id                  bytea NOT NULL,
  parent_span_id           bytea,
  service_name             text NOT NULL,
  name                     text NOT NULL,
  kind                     text NOT NULL,
  status                   text NOT NULL,
  status_message           text,
  error_type               text,
  error_message            text,
  trace_state              text,
  attributes               jsonb NOT NULL,
  events                   jsonb,
  links                    jsonb,
  residue                  bytea,
  PRIMARY KEY (trace_id, start_time, span_hash)
) PARTITION BY RANGE (start_time);
COMMENT ON TABLE otel_spans IS 'one row per span, immutable; the view spans is the friendly form';
COMMENT ON COLUMN otel_spans.duration_ns IS 'end - start in nanoseconds, exact; negative when the sender said so';
COMMENT ON COLUMN otel_spans.span_hash IS 'first 64 bits of the hash of the span''s content: a resent span is the same row';
COMMENT ON COLUMN otel_spans.status_message IS 'null when the span came without a status';
COMMENT ON COLUMN otel_spans.error_type IS 'error.type, or the type of the last exception event';
CREATE INDEX otel_spans_service ON otel_spans (service_name, start_time);
CREATE INDEX otel_spans_error ON otel_spans (start_time) WHERE status = 'error';

---------- logs ----------
CREATE TABLE otel_logs (
  time                     timestamptz NOT NULL,
  observed_delta_ns        bigint,
  resource_id              bigint NOT NULL,
  trace_id                 uuid,
  scope_id                 integer NOT NULL,
  flags                    integer NOT NULL,
  dropped_attributes_count integer,
  time_ns                  smallint NOT NULL,
  severity_number          smallint NOT NULL,
  time_is_observed         boolean NOT NULL,
  span_id                  bytea,
  service_name             text NOT NULL,
  severity_text            text,
  event_name               text,
  body                     text,
  body_json                jsonb,
  attributes               jsonb NOT NULL,
  residue                  bytea
) PARTITION BY RANGE (time);
COMMENT ON TABLE otel_logs IS 'one row per log record; the view logs is the friendly form';
COMMENT ON COLUMN otel_logs.time IS 'time of the event, or the observed time where the sender gave no other';
COMMENT ON COLUMN otel_logs.observed_delta_ns IS 'observed time - event time; null when there is no observed time';
COMMENT ON COLUMN otel_logs.body IS 'the body when it is a string';
COMMENT ON COLUMN otel_logs.body_json IS 'the body when it is anything else';
CREATE INDEX otel_logs_service ON otel_logs (service_name, time);
CREATE INDEX otel_logs_trace ON otel_logs (trace_id) WHERE trace_id IS NOT NULL;

---------- metrics: series and their points ----------
CREATE TABLE otel_metric_series (
  series_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  content_hash    uuid NOT NULL UNIQUE,
  resource_id     bigint NOT NULL,
  scope_id        integer NOT NULL,
  monotonic       boolean NOT NULL,
  service_name    text NOT NULL,
  metric_name     text NOT NULL,
  metric_type     text NOT NULL,
  temporality     text NOT NULL,
  unit            text NOT NULL,
  description     text NOT NULL,
  attributes      jsonb NOT NULL,
  metadata        jsonb,
  explicit_bounds double precision[],
  residue         bytea,
  first_seen      timestamptz NOT NULL DEFAULT now(),
  last_seen       date NOT NULL DEFAULT current_date
);
COMMENT ON TABLE otel_metric_series IS 'one row per distinct metric stream: resource, scope, metric and attributes';
COMMENT ON COLUMN otel_metric_series.explicit_bounds IS 'bucket bounds of a histogram';
CREATE INDEX otel_metric_series_name ON otel_metric_series (left(metric_name, 256), left(service_name, 256));

CREATE TABLE otel_metrics (
  time                 timestamptz NOT NULL,
  series_id            bigint NOT NULL,
  point_hash           bigint NOT NULL,
  start_delta_ns       bigint,
  value_double         double precision,
  value_int            bigint,
  count                bigint,
  sum                  double precision,
  min                  double precision,
  max                  double precision,
  zero_threshold       double precision,
  zero_count           bigint,
  flags                integer NOT NULL,
  exponential_scale    integer,
  positive_offset      integer,
  negative_offset      integer,
  time_ns              smallint NOT NULL,
  bucket_counts        bigint[],
  positive_counts      bigint[],
  negative_counts      bigint[],
  quantiles            double precision[],
  quantile_values      double precision[],
  exemplars            jsonb,
  residue              bytea,
  PRIMARY KEY (series_id, time, point_hash)
) PARTITION BY RANGE (time);
COMMENT ON TABLE otel_metrics IS 'one row per data point of any kind; the view metrics is the friendly form';
COMMENT ON COLUMN otel_metrics.start_delta_ns IS 'time - start time in nanoseconds; null when there is no start time';

---------- idempotence and dead letters ----------
CREATE TABLE otel_ingest_ledger (
  request_hash uuid PRIMARY KEY,
  received_at  timestamptz NOT NULL DEFAULT now(),
  records      integer NOT NULL,
  signal       text NOT NULL
);
COMMENT ON TABLE otel_ingest_ledger IS 'requests whose records are stored: a request sent again adds nothing';
CREATE INDEX otel_ingest_ledger_age ON otel_ingest_ledger (received_at);

CREATE TABLE otel_telemetry_dlq (
  id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  created_at     timestamptz NOT NULL DEFAULT now(),
  processed_at   timestamptz,
  next_retry_at  timestamptz NOT NULL DEFAULT now() + interval '5 minutes',
  retry_count    integer NOT NULL DEFAULT 0,
  telemetry_type text NOT NULL CHECK (telemetry_type IN ('trace', 'metric', 'log')),
  error_class    text NOT NULL,
  error_message  text NOT NULL,
  raw_data       bytea NOT NULL
);
COMMENT ON TABLE otel_telemetry_dlq IS 'records that the database refused, with the reason';
COMMENT ON COLUMN otel_telemetry_dlq.raw_data IS 'an OTLP Export*ServiceRequest in protobuf that can be sent again';
CREATE INDEX otel_telemetry_dlq_open ON otel_telemetry_dlq (next_retry_at) WHERE processed_at IS NULL;

---------- traces: derived from spans and from warning and error logs ----------
CREATE TABLE otel_trace_keys (
  trace_id uuid PRIMARY KEY,
  bucket   timestamptz NOT NULL
);
COMMENT ON TABLE otel_trace_keys IS 'which partition of otel_traces holds a trace: makes one row per trace certain';

CREATE TABLE otel_traces (
  bucket        timestamptz NOT NULL,
  start_time    timestamptz NOT NULL,
  end_time      timestamptz NOT NULL,
  seen_from     timestamptz NOT NULL,
  seen_to       timestamptz NOT NULL,
  derived_at    timestamptz NOT NULL DEFAULT now(),
  duration_ns   bigint NOT NULL,
  trace_id      uuid NOT NULL,
  span_count    integer NOT NULL,
  error_count   integer NOT NULL,
  log_count     integer NOT NULL,
  start_ns      smallint NOT NULL,
  root_seen     boolean NOT NULL,
  status        text NOT NULL,
  service_name  text NOT NULL,
  root_name     text NOT NULL,
  services      text[] NOT NULL,
  error_type    text,
  error_message text,
  text_ids      bigint[] NOT NULL,
  PRIMARY KEY (trace_id, bucket)
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE otel_traces IS 'one row per trace, derived from its spans and its warning and error logs';
COMMENT ON COLUMN otel_traces.bucket IS 'earliest start after 2000 when the row was first derived; never changes, so the row never moves';
COMMENT ON COLUMN otel_traces.seen_from IS 'no span or derived-from log of the trace is earlier';
COMMENT ON COLUMN otel_traces.seen_to IS 'no span starts, and no derived-from log lies, later';
COMMENT ON COLUMN otel_traces.log_count IS 'warning and error logs of the trace';
COMMENT ON COLUMN otel_traces.root_seen IS 'whether a span without a parent has arrived';
COMMENT ON COLUMN otel_traces.text_ids IS 'the texts that describe the trace, first the most telling';
CREATE INDEX otel_traces_start ON otel_traces (start_time);
CREATE INDEX otel_traces_service ON otel_traces (service_name, start_time);
CREATE INDEX otel_traces_error ON otel_traces (start_time) WHERE status = 'error';

CREATE TABLE otel_trace_slots (slot smallint PRIMARY KEY);
INSERT INTO otel_trace_slots SELECT generate_series(0, 15);
COMMENT ON TABLE otel_trace_slots IS 'locking a row is the right to derive the traces of that slot, one transaction at a time';

CREATE TABLE otel_trace_touches (
  touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  first_time timestamptz NOT NULL,
  last_time  timestamptz NOT NULL,
  trace_id   uuid NOT NULL,
  records    integer NOT NULL,
  slot       smallint NOT NULL,
  attempts   smallint NOT NULL DEFAULT 0,
  has_root   boolean NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE otel_trace_touches IS 'traces whose spans or error logs changed since they were derived; written with the records';
COMMENT ON COLUMN otel_trace_touches.touched_at IS 'when, or, of a trace that could not be derived, when it is tried again';
COMMENT ON COLUMN otel_trace_touches.attempts IS 'how often the trace could not be derived';
CREATE INDEX otel_trace_touches_slot ON otel_trace_touches (slot, trace_id);

CREATE TABLE otel_trace_orphans (
  trace_id   uuid PRIMARY KEY,
  first_time timestamptz NOT NULL,
  last_time  timestamptz NOT NULL,
  seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE otel_trace_orphans IS 'when the error logs of traces were of which no span has arrived; kept for a day';
CREATE INDEX otel_trace_orphans_age ON otel_trace_orphans (seen_at);

---------- texts and which traces share them ----------
-- Words come from the program, in lower case and with one space between them: PostgreSQL's parser takes
-- java.util.TimeoutException for one word, and its letters and lower case depend on the database's locale. The dictionary
-- does not depend on it for what is in lower case already.
CREATE FUNCTION otel_text_words(p_words text) RETURNS tsvector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT coalesce(string_agg('''' || replace(replace(s.stem, '\', '\\'), '''', '''''') || ''':' || least(w.place, 16383), ' '), '')::tsvector
  FROM string_to_table(p_words, ' ') WITH ORDINALITY AS w (word, place)
  CROSS JOIN LATERAL unnest(ts_lexize('pg_catalog.english_stem', w.word)) AS s (stem)
  WHERE w.word <> ''
$$;
COMMENT ON FUNCTION otel_text_words IS 'stems and places of words in lower case with one space between them, without the commonest of English';

CREATE TABLE otel_texts (
  text_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  text_hash    uuid NOT NULL UNIQUE,
  created_at   timestamptz NOT NULL DEFAULT now(),
  text_version smallint NOT NULL,
  text         text NOT NULL,
  words        tsvector NOT NULL
);
COMMENT ON TABLE otel_texts IS 'distinct normalised descriptions of traces; each is embedded once per model';
CREATE INDEX otel_texts_words ON otel_texts USING gin (words);

CREATE TABLE otel_trace_texts (
  bucket   timestamptz NOT NULL,
  text_id  bigint NOT NULL,
  trace_id uuid NOT NULL,
  PRIMARY KEY (text_id, bucket, trace_id)
) PARTITION BY RANGE (bucket);
COMMENT ON TABLE otel_trace_texts IS 'which traces a text describes; bucket is that of the trace';

CREATE TABLE otel_embedding_models (
  model_id   smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  dimension  smallint NOT NULL CHECK (dimension > 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  last_used  timestamptz NOT NULL DEFAULT now(),
  name       text NOT NULL,
  precision  text NOT NULL,
  UNIQUE (name, precision)
);
COMMENT ON TABLE otel_embedding_models IS 'vector spaces; the vectors of model N stand in table otel_embeddings_N';
COMMENT ON COLUMN otel_embedding_models.last_used IS 'when a worker last embedded with it; a day later it gets no new work until one does';

CREATE TABLE otel_embedding_work (
  text_id    bigint NOT NULL,
  not_before timestamptz NOT NULL DEFAULT now(),
  attempts   integer NOT NULL DEFAULT 0,
  model_id   smallint NOT NULL,
  last_error text,
  PRIMARY KEY (model_id, text_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE otel_embedding_work IS 'texts that wait for their vector';

---------- partitions ----------
CREATE TABLE otel_partitioned_tables (
  parent text PRIMARY KEY,
  step   text NOT NULL DEFAULT 'day' CHECK (step IN ('hour', 'day', 'week', 'month')),
  ahead  integer NOT NULL DEFAULT 3 CHECK (ahead >= 0),
  retention interval NOT NULL DEFAULT interval '90 days'
);
COMMENT ON TABLE otel_partitioned_tables IS 'how each table is cut by time';
INSERT INTO otel_partitioned_tables (parent) VALUES
  ('otel_spans'), ('otel_logs'), ('otel_metrics'), ('otel_traces'), ('otel_trace_texts');

-- The bounds of every partition. The outer two (before 2000, from 2100) have an infinite bound.
CREATE FUNCTION otel_partitions(p_parent text)
RETURNS TABLE (partition text, lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
  SELECT c.relname::text,
         coalesce((regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz, '-infinity'),
         coalesce((regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz, 'infinity')
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
  CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
  WHERE i.inhparent = ('otel.' || p_parent)::regclass
$$;
COMMENT ON FUNCTION otel_partitions IS 'partitions of a table with their bounds';

-- Makes the partition that a record of this time belongs to, unless it is there. Data inside the retention and a little
-- ahead of now gets partitions of the configured step. Older data gets coarse ones, of a year at most, and so does data
-- from a far future; up to a year ahead, where a wrong clock may have sent it, a month at most, so that the live
-- partitions to come keep their step. Stray times thus cannot make thousands of tables. A new partition never overlaps
-- one that exists: it takes the part of its natural range that is free. Concurrent callers wait for each other on the
-- table's configuration row. Built-in names come first in the search path: the schema public may be anybody's.
CREATE FUNCTION otel_ensure_partition(p_parent text, p_time timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  config   otel_partitioned_tables;
  live_lo  timestamptz;
  live_hi  timestamptz;
  gap_lo   timestamptz;
  gap_hi   timestamptz;
  lo       timestamptz;
  hi       timestamptz;
  coarse   text;
  name     text;
BEGIN
  SELECT * INTO config FROM otel_partitioned_tables WHERE parent = p_parent FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'table % is not partitioned by time', p_parent;
  END IF;
  IF EXISTS (SELECT FROM otel_partitions(p_parent) WHERE lower_bound <= p_time AND p_time < upper_bound) THEN
    RETURN false;
  END IF;

  live_lo := date_trunc(config.step, now() - config.retention);
  live_hi := date_trunc(config.step, now()) + (config.ahead + 2) * ('1 ' || config.step)::interval;
  IF p_time < timestamptz '2000-01-01' THEN
    lo := '-infinity'; hi := timestamptz '2000-01-01';
    name := p_parent || '_before_2000';
  ELSIF p_time >= timestamptz '2100-01-01' THEN
    lo := timestamptz '2100-01-01'; hi := 'infinity';
    name := p_parent || '_from_2100';
  ELSE
    IF p_time >= live_lo AND p_time < live_hi THEN
      lo := date_trunc(config.step, p_time);
      hi := lo + ('1 ' || config.step)::interval;
    ELSIF p_time < live_lo THEN
      lo := date_trunc('year', p_time);
      hi := least(lo + interval '1 year', live_lo);
    ELSE
      coarse := CASE WHEN p_time < now() + interval '1 year' THEN 'month' ELSE 'year' END;
      lo := greatest(date_trunc(coarse, p_time), live_hi);
      hi := date_trunc(coarse, p_time) + ('1 ' || coarse)::interval;
    END IF;
    SELECT max(upper_bound) INTO gap_lo FROM otel_partitions(p_parent) WHERE upper_bound <= p_time;
    SELECT min(lower_bound) INTO gap_hi FROM otel_partitions(p_parent) WHERE lower_bound > p_time;
    lo := greatest(lo, gap_lo, timestamptz '2000-01-01');
    hi := least(hi, gap_hi, timestamptz '2100-01-01');
    name := p_parent || to_char(lo, '_YYYYMMDD')
         || CASE WHEN lo <> date_trunc('day', lo) OR hi - lo < interval '1 day' THEN to_char(lo, '"T"HH24') ELSE '' END;
    IF hi - lo > interval '32 days' THEN
      name := name || '_coarse';
    END IF;
  END IF;

  -- LIKE + ATTACH takes a weaker lock on the parent than CREATE TABLE ... PARTITION OF, which would stop every reader.
  EXECUTE format('CREATE TABLE otel.%I (LIKE otel.%I INCLUDING ALL)', name, p_parent);
  EXECUTE format('ALTER TABLE otel.%I ATTACH PARTITION otel.%I FOR VALUES FROM (%s) TO (%s)', p_parent, name,
    CASE WHEN lo = '-infinity' THEN 'MINVALUE' ELSE quote_literal(lo) END,
    CASE WHEN hi = 'infinity' THEN 'MAXVALUE' ELSE quote_literal(hi) END);
  IF p_parent = 'otel_traces' THEN
    -- Rows are rewritten when something late arrives: leave room for the new version on the same page.
    EXECUTE format('ALTER TABLE otel.%I SET (fillfactor = 85)', name);
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION otel_ensure_partition IS 'makes the partition for a time, if it is missing';

-- Partitions for now and the configured number of steps ahead, for every table.
CREATE FUNCTION otel_make_partitions() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  config otel_partitioned_tables;
  made   integer := 0;
  i      integer;
BEGIN
  FOR config IN SELECT * FROM otel_partitioned_tables ORDER BY parent LOOP
    FOR i IN 0 .. config.ahead LOOP
      IF otel_ensure_partition(config.parent, date_trunc(config.step, now()) + i * ('1 ' || config.step)::interval) THEN
        made := made + 1;
      END IF;
    END LOOP;
  END LOOP;
  RETURN made;
END $$;
COMMENT ON FUNCTION otel_make_partitions IS 'makes the partitions of the near future';
SELECT otel_make_partitions();

---------- friendly views ----------
CREATE VIEW spans AS
SELECT s.start_time,
       s.start_time + (s.duration_ns / 1000) * interval '1 microsecond' AS end_time,
       s.duration_ns / 1e6::double precision AS duration_ms,
       replace(s.trace_id::text, '-', '') AS trace_id,
       encode(s.span_id, 'hex') AS span_id,
       encode(s.parent_span_id, 'hex') AS parent_span_id,
       s.service_name, s.name, s.kind, s.status, s.status_message, s.error_type, s.error_message, s.http_status_code,
       s.attributes, r.attributes AS resource_attributes, c.name AS scope_name, c.version AS scope_version,
       s.events, s.links, s.trace_state, s.duration_ns, s.start_ns, s.flags
FROM otel_spans s
LEFT JOIN otel_resources r USING (resource_id)
LEFT JOIN otel_scopes c USING (scope_id);
COMMENT ON VIEW spans IS 'one row per span, ids in hex, durations in milliseconds';

CREATE VIEW logs AS
SELECT l.time, replace(l.trace_id::text, '-', '') AS trace_id, encode(l.span_id, 'hex') AS span_id,
       l.service_name, l.severity_number, l.severity_text, l.event_name,
       coalesce(l.body, l.body_json::text) AS body, l.body_json, l.attributes,
       r.attributes AS resource_attributes, c.name AS scope_name, l.time_ns, l.flags
FROM otel_logs l
LEFT JOIN otel_resources r USING (resource_id)
LEFT JOIN otel_scopes c USING (scope_id);
COMMENT ON VIEW logs IS 'one row per log record';

CREATE VIEW metrics AS
SELECT p.time, p.time - (p.start_delta_ns / 1000) * interval '1 microsecond' AS start_time,
       s.service_name, s.metric_name, s.metric_type, s.temporality, s.monotonic, s.unit, s.attributes,
       coalesce(p.value_double, p.value_int::double precision) AS value, p.value_int, p.value_double,
       p.count, p.sum, p.min, p.max, s.explicit_bounds, p.bucket_counts,
       p.exponential_scale, p.zero_count, p.zero_threshold, p.positive_offset, p.positive_counts,
       p.negative_offset, p.negative_counts, p.quantiles, p.quantile_values, p.exemplars,
       r.attributes AS resource_attributes, p.series_id, p.flags
FROM otel_metrics p
JOIN otel_metric_series s USING (series_id)
LEFT JOIN otel_resources r USING (resource_id);
COMMENT ON VIEW metrics IS 'one row per data point with its series';

CREATE VIEW traces AS
SELECT replace(t.trace_id::text, '-', '') AS trace_id, t.start_time, t.end_time, t.duration_ns / 1e6::double precision AS duration_ms,
       t.status, t.service_name, t.root_name, t.services, t.span_count, t.error_count, t.log_count,
       t.error_type, t.error_message, x.text, t.root_seen, t.duration_ns
FROM otel_traces t
LEFT JOIN otel_texts x ON x.text_id = t.text_ids[1];
COMMENT ON VIEW traces IS 'one row per trace';
