-- Letters that wait for something else than room for series, which are looked for often. Those that wait for room may be
-- millions, all of them due and none of them tried.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_telemetry_dlq_due ON otel.otel_telemetry_dlq (next_retry_at, id)
  WHERE processed_at IS NULL AND error_class <> 'series-limit';
