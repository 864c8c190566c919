-- Dead letters that are more than one record, and what became of the latest replay.

ALTER TABLE otel_telemetry_dlq
  ADD COLUMN records integer NOT NULL DEFAULT 1,
  ADD COLUMN last_error text;
COMMENT ON COLUMN otel_telemetry_dlq.records IS 'Records in raw_data: one, or all of a request that failed as a whole.';
COMMENT ON COLUMN otel_telemetry_dlq.last_error IS 'Why the latest replay failed.';
