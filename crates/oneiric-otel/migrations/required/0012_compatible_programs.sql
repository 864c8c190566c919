-- Which programs can work with a migration that they do not know: so servers of two versions run beside each other, and
-- an older one can be started again after an upgrade.
ALTER TABLE otel_migrations ADD COLUMN works_with integer;
COMMENT ON COLUMN otel_migrations.works_with IS 'The least schema version of a program that can work with this without knowing it; null when none can';
