-- Which traces of before migration 28 began long before their bucket. Deferred: it reads all traces once. One transaction; the
-- triggers of migration 28 note what is written meanwhile.
DELETE FROM otel.otel_early_traces WHERE NOT isfinite(bucket_from);
INSERT INTO otel.otel_early_traces AS e (bucket_from, bucket_to, first_start)
SELECT n.day, n.day + interval '24 hours', n.first_start
FROM (SELECT date_trunc('day', t.bucket, 'UTC') AS day, min(t.start_time) AS first_start FROM otel.otel_traces t
      WHERE t.start_time < t.bucket - interval '24 hours' GROUP BY 1) n
ORDER BY n.day
ON CONFLICT (bucket_from) DO UPDATE SET first_start = least(e.first_start, excluded.first_start);
