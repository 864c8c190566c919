-- Finds what was retired. Deferred: it reads the whole table once.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_scopes_retirement ON otel.otel_scopes (retirement) WHERE retirement IS NOT NULL;
