-- Finds what was retired. Deferred: it reads the whole table once.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_metric_series_retirement ON otel.otel_metric_series (retirement) WHERE retirement IS NOT NULL;
