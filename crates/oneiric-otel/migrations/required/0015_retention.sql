-- Retention: how long each table keeps its records, when its partitions were written, and what was dropped.
--
-- Programs before this one write and read as before. They do not note what they write; whoever applies retention sees it
-- from PostgreSQL's counters. What is stored when this runs counts as written now, because nobody knows when it was.

---------- how long ----------
ALTER TABLE otel_partitioned_tables
  ADD COLUMN source text REFERENCES otel_partitioned_tables (parent),
  ADD COLUMN expires boolean NOT NULL DEFAULT true,
  ADD COLUMN changed_at timestamptz NOT NULL DEFAULT '-infinity';
UPDATE otel_partitioned_tables SET source = 'otel_spans' WHERE parent IN ('otel_traces', 'otel_trace_texts');
UPDATE otel_partitioned_tables SET source = 'otel_metrics' WHERE parent = 'otel_metric_rollups';
COMMENT ON COLUMN otel_partitioned_tables.retention IS
  'Age from which on a partition is dropped, counted from its end and its last write, and new data gets coarse ones';
COMMENT ON COLUMN otel_partitioned_tables.source IS
  'The table whose records its own are derived from: a partition goes when none of that table is left in its time';
COMMENT ON COLUMN otel_partitioned_tables.expires IS 'False when nothing is dropped for its age';
COMMENT ON COLUMN otel_partitioned_tables.changed_at IS 'When the retention was last made shorter';

---------- when partitions were written ----------
CREATE TABLE otel_partition_writes (
  partition   text PRIMARY KEY,
  parent      text NOT NULL,
  first_write timestamptz,
  last_write  timestamptz NOT NULL,
  relation    oid,
  inserted    bigint,
  retired_at  timestamptz
);
COMMENT ON TABLE otel_partition_writes IS 'When partitions were written, to the hour; noted before a write.';
COMMENT ON COLUMN otel_partition_writes.partition IS 'The partition';
COMMENT ON COLUMN otel_partition_writes.parent IS 'Its table';
COMMENT ON COLUMN otel_partition_writes.first_write IS 'Nothing was written earlier; null when that is not known';
COMMENT ON COLUMN otel_partition_writes.last_write IS
  'What was written later was written within the hour that followed; -infinity when nothing was written';
COMMENT ON COLUMN otel_partition_writes.relation IS 'The table that the counter is of: a restored one has a counter of its own';
COMMENT ON COLUMN otel_partition_writes.inserted IS 'PostgreSQL''s counter of inserted rows when it was last looked at';
COMMENT ON COLUMN otel_partition_writes.retired_at IS 'Since when nobody may write to it, because it is being dropped';
INSERT INTO otel_partition_writes (partition, parent, last_write, relation, inserted)
SELECT p.partition, t.parent, CASE WHEN pg_relation_size(c.oid) > 0 THEN now() ELSE '-infinity' END, c.oid,
       pg_stat_get_tuples_inserted(c.oid)
FROM otel_partitioned_tables t CROSS JOIN LATERAL otel_partitions(t.parent) p
CROSS JOIN LATERAL (SELECT to_regclass(format('otel.%I', p.partition))::oid AS oid) c;

-- Notes that the partitions of these times are about to be written, and refuses those that are being dropped: the error is
-- one that time mends, because a new partition can be made then. Whoever drops a partition locks its row, sees that nobody
-- has noted a write for longer than the retention, and marks it. So a write is either noted before, or comes after.
CREATE FUNCTION otel_note_writes(p_parent text, p_times timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp AS $$
DECLARE
  retired text;
BEGIN
  WITH noted AS (
    INSERT INTO otel.otel_partition_writes AS w (partition, parent, first_write, last_write)
    SELECT p.partition, p_parent, NULL, now() FROM otel_partitions(p_parent) p
    WHERE EXISTS (SELECT FROM unnest(p_times) t (at) WHERE p.lower_bound <= t.at AND t.at < p.upper_bound)
    ORDER BY p.partition
    ON CONFLICT (partition) DO UPDATE
    SET last_write = CASE WHEN w.retired_at IS NULL THEN greatest(w.last_write, excluded.last_write) ELSE w.last_write END,
        first_write = CASE WHEN w.last_write = '-infinity' THEN excluded.last_write ELSE w.first_write END
    WHERE w.last_write < now() - interval '10 minutes' OR w.retired_at IS NOT NULL
    RETURNING w.partition, w.retired_at)
  SELECT min(n.partition) INTO retired FROM noted n WHERE n.retired_at IS NOT NULL;
  IF retired IS NOT NULL THEN
    RAISE EXCEPTION 'partition % is being dropped by retention', retired USING ERRCODE = 'lock_not_available';
  END IF;
END $$;
COMMENT ON FUNCTION otel_note_writes IS 'Notes that the partitions of these times are about to be written.';

---------- what was dropped ----------
CREATE TABLE otel_dropped_partitions (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  parent      text NOT NULL,
  partition   text NOT NULL,
  relation    oid NOT NULL,
  lower_bound timestamptz NOT NULL,
  upper_bound timestamptz NOT NULL,
  last_write  timestamptz NOT NULL,
  row_count   bigint NOT NULL,
  bytes       bigint NOT NULL,
  retention   interval NOT NULL,
  begun_at    timestamptz NOT NULL DEFAULT now(),
  detached_at timestamptz,
  dropped_at  timestamptz,
  inserted    bigint,
  state       text NOT NULL CHECK (state IN ('retired', 'detached', 'dropped', 'kept')),
  reason      text
);
COMMENT ON TABLE otel_dropped_partitions IS 'Partitions that retention dropped or is dropping.';
COMMENT ON COLUMN otel_dropped_partitions.id IS 'In the order in which they were begun';
COMMENT ON COLUMN otel_dropped_partitions.parent IS 'Its table';
COMMENT ON COLUMN otel_dropped_partitions.partition IS 'The partition';
COMMENT ON COLUMN otel_dropped_partitions.relation IS 'Its object id: a table of the same name may come after it';
COMMENT ON COLUMN otel_dropped_partitions.lower_bound IS 'The first time it had room for';
COMMENT ON COLUMN otel_dropped_partitions.upper_bound IS 'The first time after it';
COMMENT ON COLUMN otel_dropped_partitions.last_write IS 'When it was last written';
COMMENT ON COLUMN otel_dropped_partitions.row_count IS 'Its rows, as PostgreSQL estimated them';
COMMENT ON COLUMN otel_dropped_partitions.bytes IS 'What it took on disk with its indexes';
COMMENT ON COLUMN otel_dropped_partitions.retention IS 'The retention at that time';
COMMENT ON COLUMN otel_dropped_partitions.begun_at IS 'When it was marked';
COMMENT ON COLUMN otel_dropped_partitions.detached_at IS 'When nobody saw it any more';
COMMENT ON COLUMN otel_dropped_partitions.inserted IS 'PostgreSQL''s counter of inserted rows when it was marked';
COMMENT ON COLUMN otel_dropped_partitions.dropped_at IS 'When it was gone';
COMMENT ON COLUMN otel_dropped_partitions.state IS
  'retired: nobody writes to it any more; detached: nobody sees it any more; dropped: gone; kept: not dropped, see reason';
COMMENT ON COLUMN otel_dropped_partitions.reason IS 'Why it is kept';
CREATE INDEX otel_dropped_partitions_open ON otel_dropped_partitions (state) WHERE state IN ('retired', 'detached');

---------- the clock ----------
CREATE TABLE otel_retention_clock (
  looked_at    timestamptz NOT NULL,
  steady_since timestamptz NOT NULL
);
COMMENT ON TABLE otel_retention_clock IS 'One row: whether the database''s clock can be trusted.';
COMMENT ON COLUMN otel_retention_clock.looked_at IS 'When it was last looked at';
COMMENT ON COLUMN otel_retention_clock.steady_since IS 'Since when it has neither jumped nor gone back';
INSERT INTO otel_retention_clock VALUES (now(), now());

---------- partitions made by hand, and those that are being detached ----------
-- As in migration 1, and: a time whose partition is being detached has none yet, and a table that has the name already,
-- such as a partition that somebody detached, keeps it.
CREATE OR REPLACE FUNCTION otel_ensure_partition(p_parent text, p_time timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  config   otel_partitioned_tables;
  live_lo  timestamptz;
  live_hi  timestamptz;
  gap_lo   timestamptz;
  gap_hi   timestamptz;
  lo       timestamptz;
  hi       timestamptz;
  coarse   text;
  plain    text;
  name     text;
  covering text;
  tries    integer := 1;
BEGIN
  SELECT * INTO config FROM otel_partitioned_tables WHERE parent = p_parent FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'table % is not partitioned by time', p_parent;
  END IF;
  SELECT p.partition INTO covering FROM otel_partitions(p_parent) p WHERE p.lower_bound <= p_time AND p_time < p.upper_bound;
  IF covering IS NOT NULL THEN
    IF EXISTS (SELECT FROM pg_inherits i
               WHERE i.inhrelid = to_regclass(format('otel.%I', covering)) AND i.inhdetachpending) THEN
      RAISE EXCEPTION 'partition % is being detached', covering USING ERRCODE = 'lock_not_available',
        HINT = 'Where retention does not do it: ALTER TABLE ... DETACH PARTITION ... FINALIZE.';
    END IF;
    RETURN false;
  END IF;

  live_lo := date_trunc(config.step, now() - config.retention);
  live_hi := date_trunc(config.step, now()) + (config.ahead + 2) * ('1 ' || config.step)::interval;
  IF p_time < timestamptz '2000-01-01' THEN
    lo := '-infinity'; hi := timestamptz '2000-01-01';
    plain := p_parent || '_before_2000';
  ELSIF p_time >= timestamptz '2100-01-01' THEN
    lo := timestamptz '2100-01-01'; hi := 'infinity';
    plain := p_parent || '_from_2100';
  ELSE
    IF p_time >= live_lo AND p_time < live_hi THEN
      lo := date_trunc(config.step, p_time);
      hi := lo + ('1 ' || config.step)::interval;
    ELSIF p_time < live_lo THEN
      lo := date_trunc('year', p_time);
      hi := least(lo + interval '1 year', live_lo);
    ELSE
      coarse := CASE WHEN p_time < now() + interval '1 year' THEN 'month' ELSE 'year' END;
      lo := greatest(date_trunc(coarse, p_time), live_hi);
      hi := date_trunc(coarse, p_time) + ('1 ' || coarse)::interval;
    END IF;
  END IF;
  SELECT max(upper_bound) INTO gap_lo FROM otel_partitions(p_parent) WHERE upper_bound <= p_time;
  SELECT min(lower_bound) INTO gap_hi FROM otel_partitions(p_parent) WHERE lower_bound > p_time;
  IF plain IS NULL THEN
    lo := greatest(lo, gap_lo, timestamptz '2000-01-01');
    hi := least(hi, gap_hi, timestamptz '2100-01-01');
    plain := p_parent || to_char(lo, '_YYYYMMDD')
         || CASE WHEN lo <> date_trunc('day', lo) OR hi - lo < interval '1 day' THEN to_char(lo, '"T"HH24') ELSE '' END;
    IF hi - lo > interval '32 days' THEN
      plain := plain || '_coarse';
    END IF;
  ELSE
    -- Outside, a partition made by hand may take a part.
    lo := greatest(lo, gap_lo);
    hi := least(hi, gap_hi);
  END IF;
  name := plain;
  WHILE to_regclass(format('otel.%I', name)) IS NOT NULL LOOP
    tries := tries + 1;
    name := plain || '_' || tries;
  END LOOP;

  -- LIKE + ATTACH takes a weaker lock on the parent than CREATE TABLE ... PARTITION OF, which would stop every reader.
  EXECUTE format('CREATE TABLE otel.%I (LIKE otel.%I INCLUDING ALL)', name, p_parent);
  EXECUTE format('ALTER TABLE otel.%I ATTACH PARTITION otel.%I FOR VALUES FROM (%s) TO (%s)', p_parent, name,
    CASE WHEN lo = '-infinity' THEN 'MINVALUE' ELSE quote_literal(lo) END,
    CASE WHEN hi = 'infinity' THEN 'MAXVALUE' ELSE quote_literal(hi) END);
  IF p_parent = 'otel_traces' THEN
    -- Rows are rewritten when something late arrives: leave room for the new version on the same page.
    EXECUTE format('ALTER TABLE otel.%I SET (fillfactor = 85)', name);
  END IF;
  INSERT INTO otel_partition_writes AS w (partition, parent, last_write, relation, inserted)
  VALUES (name, p_parent, '-infinity', to_regclass(format('otel.%I', name)), 0)
  ON CONFLICT (partition) DO UPDATE  -- of an earlier one of this name
  SET parent = excluded.parent, first_write = NULL, last_write = excluded.last_write, relation = excluded.relation,
      inserted = 0, retired_at = NULL;
  RETURN true;
END $$;

REVOKE EXECUTE ON FUNCTION otel_note_writes(text, timestamptz[]) FROM PUBLIC;
