-- Which traces of before migration 28 began long before their bucket. Deferred: it reads all traces once. One transaction; the
-- triggers of migration 28 note what is written meanwhile.
DELETE FROM otel.otel_early_traces WHERE NOT isfinite(bucket_from);
INSERT INTO otel.otel_early_traces AS e (bucket_from, bucket_to, first_start)
SELECT n.day, n.day + interval '24 hours', n.first_start
FROM (SELECT date_trunc('day', t.bucket, 'UTC') AS day, date_trunc('day', min(t.start_time), 'UTC') AS first_start
      FROM otel.otel_traces t
      WHERE t.start_time < t.bucket - interval '24 hours' AND t.start_time >= timestamptz '2000-01-01 00:00:00+00' GROUP BY 1) n
ORDER BY n.day
ON CONFLICT (bucket_from) DO UPDATE SET first_start = least(e.first_start, excluded.first_start);
-- What retention has detached and may attach again was not looked at.
INSERT INTO otel.otel_early_traces AS e (bucket_from, bucket_to, first_start)
SELECT d.lower_bound, max(d.upper_bound), '-infinity' FROM otel.otel_dropped_partitions d
WHERE d.parent = 'otel_traces' AND d.state IN ('retired', 'detached') AND isfinite(d.lower_bound) GROUP BY 1
ON CONFLICT (bucket_from) DO UPDATE SET bucket_to = greatest(e.bucket_to, excluded.bucket_to), first_start = '-infinity';
