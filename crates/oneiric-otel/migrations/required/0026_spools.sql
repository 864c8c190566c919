-- How old the requests are that wait in the spools of servers: what was stored of them before a crash must not be forgotten
-- before they are sent again.
--
-- Programs before this one neither write nor read this table: whoever forgets requests looks at its own spool alone, as before.

CREATE TABLE otel_spools (
  process     uuid PRIMARY KEY,
  oldest      timestamptz NOT NULL,
  reported_at timestamptz NOT NULL
);
COMMENT ON TABLE otel_spools IS 'What waits in the spools of processes that write to this database, as they say every hour.';
COMMENT ON COLUMN otel_spools.process IS 'The process; it has another name after a restart';
COMMENT ON COLUMN otel_spools.oldest IS 'What waits in its spool came then or later';
COMMENT ON COLUMN otel_spools.reported_at IS 'When it said so. What has come to its spool since came later than this';
