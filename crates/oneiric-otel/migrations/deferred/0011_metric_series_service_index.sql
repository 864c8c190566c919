-- Finds the series of a trace's services. Deferred: on a database with many series this takes a while, and the context of
-- a trace can do without it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_metric_series_service ON otel.otel_metric_series (left(service_name, 256));
