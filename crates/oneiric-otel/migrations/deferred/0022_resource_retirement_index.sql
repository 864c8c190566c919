-- Finds what was retired. Deferred: it reads the whole table once.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_resources_retirement ON otel.otel_resources (retirement) WHERE retirement IS NOT NULL;
