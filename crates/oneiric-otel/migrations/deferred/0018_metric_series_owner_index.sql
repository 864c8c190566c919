-- The series of a resource: while there is one, neither its resource nor its scope is collected.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_metric_series_owner ON otel.otel_metric_series (resource_id, scope_id);
