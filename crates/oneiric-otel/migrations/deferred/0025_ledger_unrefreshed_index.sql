-- Tells whether a program before migration 17 writes. Deferred: at first all requests of a week are in it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS otel_ingest_ledger_unrefreshed ON otel.otel_ingest_ledger (received_at) WHERE refreshed IS NULL;
