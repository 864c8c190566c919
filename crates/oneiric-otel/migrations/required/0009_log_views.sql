-- Templates of logs in SQL.

---------- logs: a column more ----------
CREATE OR REPLACE VIEW logs AS
SELECT l.time,
       replace(l.trace_id::text, '-', '') AS trace_id,
       encode(l.span_id, 'hex') AS span_id, l.service_name, l.severity_number, l.severity_text, l.event_name,
       coalesce(l.body, l.body_json::text) AS body, l.body_json, l.attributes,
       r.attributes AS resource_attributes,
       c.name AS scope_name, l.time_ns, l.flags,
       l.trace_id AS trace_uuid,
       CASE WHEN l.severity_number BETWEEN 1 AND 24
            THEN (ARRAY['trace', 'debug', 'info', 'warn', 'error', 'fatal'])[(l.severity_number + 3) / 4] END AS level,
       l.time + (l.observed_delta_ns / 1000) * interval '1 microsecond' AS observed_time, r.service_version,
       r.deployment_environment,
       l.attributes ->> 'exception.type' AS exception_type,
       l.attributes ->> 'exception.message' AS exception_message,
       l.attributes ->> 'exception.stacktrace' AS exception_stacktrace,
       otel_attr(l.attributes, 'code.function.name') AS code_function,
       otel_attr(l.attributes, 'code.file.path') AS code_file,
       otel_attr_integer(l.attributes, 'code.line.number') AS code_line,
       otel_attr(l.attributes, 'user.id') AS user_id,
       c.version AS scope_version, l.dropped_attributes_count, l.resource_id, l.scope_id,
       l.template_id
FROM otel_logs l
LEFT JOIN otel_resources r USING (resource_id)
LEFT JOIN otel_scopes c USING (scope_id);
COMMENT ON COLUMN logs.template_id IS
  'The row in the view log_templates: what the record says without what varies; null where an older version stored it';

---------- log_templates ----------
CREATE VIEW log_templates AS
SELECT t.template_id, t.service_name,
       CASE WHEN t.severity BETWEEN 1 AND 24
            THEN (ARRAY['trace', 'debug', 'info', 'warn', 'error', 'fatal'])[(t.severity + 3) / 4] END AS level,
       t.template, t.first_seen, t.last_seen
FROM otel_log_templates t;
COMMENT ON VIEW log_templates IS 'One row per kind of log record: what they say, without what varies from one to the next.';
COMMENT ON COLUMN log_templates.template_id IS 'The same as in the view logs';
COMMENT ON COLUMN log_templates.service_name IS 'The service that says it';
COMMENT ON COLUMN log_templates.level IS 'trace, debug, info, warn, error or fatal; null for unknown';
COMMENT ON COLUMN log_templates.template IS 'The beginning of the body, with <*> where something varies';
COMMENT ON COLUMN log_templates.first_seen IS 'When it was first stored';
COMMENT ON COLUMN log_templates.last_seen IS 'The last day on which it was stored';

---------- comments ----------
COMMENT ON COLUMN otel_jobs.job IS 'The job';
COMMENT ON COLUMN otel_log_templates.template_id IS 'Hash of service, severity class and template';
COMMENT ON COLUMN otel_log_templates.first_seen IS 'When it was first stored';
COMMENT ON COLUMN otel_log_templates.last_seen IS 'The last day on which it was stored';
COMMENT ON COLUMN otel_log_templates.service_name IS 'The service that says it';
COMMENT ON COLUMN otel_log_template_vectors.model_id IS 'The model';
COMMENT ON COLUMN otel_log_template_vectors.template_id IS 'The template';
