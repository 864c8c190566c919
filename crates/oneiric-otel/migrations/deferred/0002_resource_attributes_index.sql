-- Finds resources by attribute. Deferred: on a database with many resources this takes a while and nothing waits for it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_resources_attributes ON otel.otel_resources USING gin (attributes jsonb_path_ops);
