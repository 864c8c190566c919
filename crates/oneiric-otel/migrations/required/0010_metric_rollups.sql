-- Roll-ups of metrics: what is kept of the points of a stream in an hour, so that a month is answered from hours.

INSERT INTO otel_jobs VALUES ('metric_rollups');

-- The points of an hour lie together, more or less: they come in the order of time.
CREATE INDEX otel_metrics_time ON otel_metrics USING brin (time) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE otel_metric_rollups (
  hour      timestamptz NOT NULL,
  series_id bigint NOT NULL,
  points    bigint NOT NULL,
  sum       double precision,
  min       double precision,
  max       double precision,
  last      double precision,
  stretch   bytea NOT NULL,
  PRIMARY KEY (series_id, hour)
) PARTITION BY RANGE (hour);
COMMENT ON TABLE otel_metric_rollups IS 'the points of a stream in an hour, computed once; right where otel_metric_hours says so';
COMMENT ON COLUMN otel_metric_rollups.hour IS 'when the hour begins, in UTC';
COMMENT ON COLUMN otel_metric_rollups.series_id IS 'the stream';
COMMENT ON COLUMN otel_metric_rollups.points IS 'how many points';
COMMENT ON COLUMN otel_metric_rollups.sum IS 'sum of the values; null for histograms and summaries';
COMMENT ON COLUMN otel_metric_rollups.min IS 'smallest value; null for histograms and summaries';
COMMENT ON COLUMN otel_metric_rollups.max IS 'greatest value; null for histograms and summaries';
COMMENT ON COLUMN otel_metric_rollups.last IS 'the last value; null for histograms and summaries';
COMMENT ON COLUMN otel_metric_rollups.stretch IS 'all that further computing needs, as a protobuf message of the program';
INSERT INTO otel_partitioned_tables (parent, step) VALUES ('otel_metric_rollups', 'month');
SELECT otel_make_partitions();

CREATE TABLE otel_metric_hours (
  hour      timestamptz PRIMARY KEY,
  rolled_at timestamptz NOT NULL,
  version   smallint NOT NULL
);
COMMENT ON TABLE otel_metric_hours IS 'hours whose points are rolled up';
COMMENT ON COLUMN otel_metric_hours.hour IS 'when the hour begins, in UTC';
COMMENT ON COLUMN otel_metric_hours.rolled_at IS 'when reading its points began';
COMMENT ON COLUMN otel_metric_hours.version IS 'form of otel_metric_rollups.stretch';

CREATE TABLE otel_metric_touches (
  touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  hour       timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE otel_metric_touches IS 'hours of which points came since they were rolled up; written with the points';
COMMENT ON COLUMN otel_metric_touches.touched_at IS 'when';
COMMENT ON COLUMN otel_metric_touches.hour IS 'when the hour begins, in UTC';
CREATE INDEX otel_metric_touches_hour ON otel_metric_touches (hour);

-- Versions before this one store points and leave no touches: what they stored while it runs beside them is known by this.
ALTER TABLE otel_ingest_ledger ADD COLUMN touched boolean;
COMMENT ON COLUMN otel_ingest_ledger.touched IS 'true when the hours of its points are in otel_metric_touches; null from older versions';
CREATE INDEX otel_ingest_ledger_untouched ON otel_ingest_ledger (received_at)
  WHERE touched IS NULL AND signal = 'metrics';

CREATE TABLE otel_metric_rollup_state (
  trusted_from timestamptz NOT NULL,
  examined_to  timestamptz
);
COMMENT ON TABLE otel_metric_rollup_state IS 'one row: what is known of points that versions without touches stored';
COMMENT ON COLUMN otel_metric_rollup_state.trusted_from IS 'hours that were rolled up before this may lack such points';
COMMENT ON COLUMN otel_metric_rollup_state.examined_to IS 'such points that came until then were looked for; null when they never were';
INSERT INTO otel_metric_rollup_state VALUES ('-infinity', NULL);
