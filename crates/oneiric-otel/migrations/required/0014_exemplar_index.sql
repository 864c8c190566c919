-- Points with exemplars are found by their time. Programs before this one find the same, more slowly.
--
-- Storing metrics waits while the points that are there are looked through, and nothing else does.

-- Few points have exemplars. They lead from a trace to metrics of services that have no span in it.
CREATE INDEX otel_metrics_exemplars ON otel_metrics (time) WHERE exemplars IS NOT NULL;
