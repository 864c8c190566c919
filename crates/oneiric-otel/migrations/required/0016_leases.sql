-- Leases: which process does a job that should be done once, though several servers work on the database.
--
-- Programs before this one do these jobs beside it, as they did before: each of them can be done twice.

-- A row lock would end with its session, but behind a pooler a session is not a process's own, and a transaction that
-- is held for an hour keeps PostgreSQL from cleaning up. So it is a time, by the database's clock.
CREATE TABLE otel_leases (
  job     text PRIMARY KEY,
  holder  uuid,
  until   timestamptz NOT NULL DEFAULT '-infinity',
  done_at timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE otel_leases IS 'Jobs that one process does at a time.';
COMMENT ON COLUMN otel_leases.job IS 'The job';
COMMENT ON COLUMN otel_leases.holder IS 'The process that does it';
COMMENT ON COLUMN otel_leases.until IS 'When it may be taken from a process that does not renew it';
COMMENT ON COLUMN otel_leases.done_at IS 'When it was last done';
INSERT INTO otel_leases (job) VALUES ('maintenance');
