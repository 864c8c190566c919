-- Collecting resources, scopes and metric series that nothing refers to any more. ADR 13 has the reasons.
--
-- A row is first retired: its hash is turned over, so that whoever remembers its id finds it to be another and looks it up
-- again. It comes back with its id when it is wanted, and is deleted when nothing can refer to it any more.
--
-- Programs before this one find that what they remember of a retired row is out of date, and store it once more, as they do
-- after a failover. They do not note that they have seen a row, so nothing is retired while they write.

---------- retired rows ----------
ALTER TABLE otel_resources ADD COLUMN retirement bigint;
ALTER TABLE otel_scopes ADD COLUMN retirement bigint;
ALTER TABLE otel_metric_series ADD COLUMN retirement bigint;
COMMENT ON COLUMN otel_resources.retirement IS 'The retirement in which it was retired, with its hash turned over; null while it is in use';
COMMENT ON COLUMN otel_scopes.retirement IS 'The retirement in which it was retired, with its hash turned over; null while it is in use';
COMMENT ON COLUMN otel_metric_series.retirement IS 'The retirement in which it was retired, with its hash turned over; null while it is in use';
-- Once a day it is noted that a row was seen: leave room for the new version on the same page.
ALTER TABLE otel_resources SET (fillfactor = 90);
ALTER TABLE otel_scopes SET (fillfactor = 90);
ALTER TABLE otel_metric_series SET (fillfactor = 90);

CREATE FUNCTION otel_turned_over(p_hash uuid) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN translate(p_hash::text, '0123456789abcdef', 'fedcba9876543210')::uuid;
COMMENT ON FUNCTION otel_turned_over IS 'The hash with all bits inverted, and of that one again the hash';

CREATE TABLE otel_retirements (
  retirement bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  parent     text NOT NULL,
  retired_at timestamptz NOT NULL DEFAULT now(),
  looked_at  timestamptz,
  generation bigint
);
COMMENT ON TABLE otel_retirements IS 'Rows that were retired together.';
COMMENT ON COLUMN otel_retirements.retirement IS 'Names it';
COMMENT ON COLUMN otel_retirements.parent IS 'Their table';
COMMENT ON COLUMN otel_retirements.retired_at IS 'When';
COMMENT ON COLUMN otel_retirements.looked_at IS 'When it was last looked whether anything refers to them';
COMMENT ON COLUMN otel_retirements.generation IS
  'Only partitions of this generation or an earlier one can refer to them; null while a transaction may still write such a record';

CREATE TABLE otel_collection (
  generation bigint NOT NULL,
  swept_at   timestamptz NOT NULL
);
COMMENT ON TABLE otel_collection IS 'One row: the state of collecting rows that nothing refers to any more.';
COMMENT ON COLUMN otel_collection.generation IS 'Of partitions that are made now; it rises with every retirement';
COMMENT ON COLUMN otel_collection.swept_at IS 'When all rows were last looked at';
INSERT INTO otel_collection VALUES (1, '-infinity');

CREATE TABLE otel_collected (
  parent       text PRIMARY KEY,
  row_count    bigint NOT NULL DEFAULT 0,
  collected_at timestamptz
);
COMMENT ON TABLE otel_collected IS 'How many rows were collected.';
COMMENT ON COLUMN otel_collected.parent IS 'Their table';
COMMENT ON COLUMN otel_collected.row_count IS 'How many, ever';
COMMENT ON COLUMN otel_collected.collected_at IS 'When the last of them';
INSERT INTO otel_collected (parent)
VALUES ('otel_resources'), ('otel_scopes'), ('otel_metric_series'), ('otel_log_templates'), ('otel_texts');

---------- programs before this one ----------
ALTER TABLE otel_ingest_ledger ADD COLUMN refreshed boolean;
COMMENT ON COLUMN otel_ingest_ledger.refreshed IS
  'true when it was noted that what its records refer to was seen; null from older versions';

-- A program of this version looks in the transaction that stores a series whether its resource and scope are what it takes
-- them for. For the others it is looked here. They try again after an error of this class, and look everything up before.
CREATE FUNCTION otel_check_series_owners() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, otel, pg_temp AS $$
BEGIN
  PERFORM FROM otel.otel_resources r WHERE r.resource_id = NEW.resource_id AND r.retirement IS NULL FOR KEY SHARE;
  IF FOUND THEN
    PERFORM FROM otel.otel_scopes s WHERE s.scope_id = NEW.scope_id AND s.retirement IS NULL FOR KEY SHARE;
  END IF;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the resource or the scope of a metric series is not in use any more' USING ERRCODE = 'serialization_failure';
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION otel_check_series_owners IS 'Refuses series whose resource or scope is retired or gone.';
CREATE TRIGGER otel_metric_series_owners BEFORE INSERT ON otel_metric_series FOR EACH ROW
  WHEN (current_setting('oneiric_otel.owners_are_checked', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION otel_check_series_owners();

---------- partitions ----------
-- Nothing here takes longer than a catalogue entry: the indexes that collecting needs are deferred.
ALTER TABLE otel_partition_writes ADD COLUMN generation bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN otel_partition_writes.generation IS
  'It refers to nothing that was retired in an earlier generation; 0 when that is not known';

-- As in migration 15, and a new partition notes its generation.
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
  INSERT INTO otel_partition_writes AS w (partition, parent, last_write, relation, inserted, generation)
  VALUES (name, p_parent, '-infinity', to_regclass(format('otel.%I', name)), 0, (SELECT c.generation FROM otel_collection c))
  ON CONFLICT (partition) DO UPDATE  -- of an earlier one of this name
  SET parent = excluded.parent, first_write = NULL, last_write = excluded.last_write, relation = excluded.relation,
      inserted = 0, retired_at = NULL, generation = excluded.generation;
  RETURN true;
END $$;

-- Rows of a detached partition are moved to those that came in its place: what was retired before may be among what they
-- refer to. Here, because programs before this one move rows too.
CREATE FUNCTION otel_note_moved_rows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, otel, pg_temp AS $$
BEGIN
  UPDATE otel.otel_partition_writes w SET generation = least(w.generation, 0) - 1
  FROM otel.otel_partitions(NEW.parent) p
  WHERE p.partition = w.partition AND p.partition <> NEW.partition
    AND p.lower_bound < NEW.upper_bound AND p.upper_bound > NEW.lower_bound;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION otel_note_moved_rows IS 'Notes that partitions may refer to what was retired before they were made.';
CREATE TRIGGER otel_dropped_partitions_kept AFTER UPDATE OF state ON otel_dropped_partitions FOR EACH ROW
  WHEN (NEW.state = 'kept' AND OLD.state <> 'kept')
  EXECUTE FUNCTION otel_note_moved_rows();

REVOKE EXECUTE ON FUNCTION
  otel_note_moved_rows(),
  otel_turned_over(uuid),
  otel_check_series_owners()
FROM PUBLIC;
