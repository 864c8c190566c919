//! The role that runs SQL of anybody: what it must not be able to do, and how the embedded database makes it.

use tokio_postgres::types::Type;

use super::SqlFailure;
use crate::store::database::{Client, Database};
use crate::store::error::StoreError;
use crate::store::roles::{self, VIEW_FUNCTIONS, VIEWS, literal, quoted};

/// Findings of one kind at most: more would not help.
const MAX_FINDINGS: &str = "5";

/// What a role can do that it must not, and lacks that it needs. Roles that it could switch to count as itself. Names are
/// looked up in the catalogs, which everybody may read.
const FINDINGS: &str = "
    WITH self AS (SELECT oid, rolname, rolsuper, rolcreaterole, rolreplication FROM pg_catalog.pg_roles WHERE rolname = current_user),
    selves AS (SELECT m.oid, m.rolname FROM pg_catalog.pg_roles m, self WHERE pg_has_role(self.oid, m.oid, 'MEMBER')),
    relations AS (
      SELECT c.oid, c.relowner, c.relkind, n.nspname, c.relname, format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
    )
    SELECT 1, 'it is a superuser' FROM self WHERE rolsuper
    UNION ALL SELECT 2, 'it may make roles' FROM self WHERE rolcreaterole
    UNION ALL SELECT 2, 'it may replicate' FROM self WHERE rolreplication
    UNION ALL
    SELECT 3, 'it is a member of ' || rolname FROM selves
    WHERE rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program', 'pg_read_all_data',
                      'pg_write_all_data', 'pg_signal_backend', 'pg_maintain')
    UNION ALL
    (SELECT DISTINCT 4, 'it owns ' || r.name FROM relations r JOIN selves s ON s.oid = r.relowner ORDER BY 2 LIMIT @)
    UNION ALL
    (SELECT DISTINCT 5, 'it may write to ' || r.name FROM relations r JOIN selves s ON s.oid <> r.relowner
     WHERE has_table_privilege(s.oid, r.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
        OR has_any_column_privilege(s.oid, r.oid, 'INSERT, UPDATE') ORDER BY 2 LIMIT @)
    UNION ALL
    (SELECT DISTINCT 6, 'it may make objects in schema ' || quote_ident(n.nspname) FROM pg_catalog.pg_namespace n, selves s
     WHERE n.nspname NOT LIKE 'pg\\_%' AND has_schema_privilege(s.oid, n.oid, 'CREATE') ORDER BY 2 LIMIT @)
    UNION ALL
    SELECT DISTINCT 6, 'it may make schemas in this database' FROM selves s
    WHERE has_database_privilege(s.oid, current_database(), 'CREATE')
    UNION ALL
    (SELECT DISTINCT 7, 'it may read ' || r.name FROM relations r, selves s
     WHERE r.nspname = 'otel' AND (r.relkind <> 'v' OR r.relname <> ALL ($1))
       AND (has_table_privilege(s.oid, r.oid, 'SELECT') OR has_any_column_privilege(s.oid, r.oid, 'SELECT'))
     ORDER BY 2 LIMIT @)
    UNION ALL
    (SELECT DISTINCT 8, 'it may call otel.' || p.proname FROM pg_catalog.pg_proc p, selves s
     WHERE p.pronamespace = to_regnamespace('otel') AND p.prosecdef AND has_function_privilege(s.oid, p.oid, 'EXECUTE')
     ORDER BY 2 LIMIT @)
    UNION ALL
    (SELECT 9, 'it may not read otel.' || v.name FROM unnest($1) AS v (name), self
     WHERE NOT EXISTS (SELECT FROM relations r WHERE r.nspname = 'otel' AND r.relname = v.name
                       AND has_table_privilege(self.oid, r.oid, 'SELECT')
                       AND has_schema_privilege(self.oid, 'otel', 'USAGE')) ORDER BY 2 LIMIT @)
    ORDER BY 1, 2";

/// What gives a role all that it needs, as statements for the owner of the schema. `oneiric-otel db roles` does the same
/// and remembers it.
pub fn reader_grants(role: &str) -> Vec<String> {
    let role = quoted(role);
    let named = |names: &[&str]| names.iter().map(|name| format!("otel.{name}")).collect::<Vec<_>>().join(", ");
    vec![
        format!("GRANT USAGE ON SCHEMA otel TO {role}"),
        format!("GRANT SELECT ON {} TO {role}", named(VIEWS)),
        format!("GRANT EXECUTE ON FUNCTION {} TO {role}", named(VIEW_FUNCTIONS)),
    ]
}

/// Finds out whether the session's role is one for SQL of anybody.
pub(super) async fn check(client: &Client) -> Result<(), SqlFailure> {
    let sql = FINDINGS.replace('@', MAX_FINDINGS);
    let rows = client.query_typed(&sql, &[(&VIEWS, Type::TEXT_ARRAY)]).await.map_err(StoreError::from)?;
    if rows.is_empty() {
        return Ok(());
    }
    let is_superuser = rows.first().is_some_and(|row| row.get::<_, i32>(0) == 1);
    let told = if is_superuser { 1 } else { rows.len() };
    let found: Vec<&str> = rows.iter().take(told).map(|row| row.get(1)).collect();
    let row = client.query_typed_one("SELECT current_user::text", &[]).await.map_err(StoreError::from)?;
    let role: String = row.get(0);
    Err(SqlFailure::Unavailable(format!(
        "SQL needs a role that can read the views and nothing else, and {} is none: {}. {}",
        quoted(&role),
        found.join("; "),
        how_to("otel_reader")
    )))
}

/// How to get a role for SQL.
pub(crate) fn how_to(role: &str) -> String {
    let grants = reader_grants(role).join("; ");
    format!(
        "To make one: CREATE ROLE {role} LOGIN PASSWORD '...'; then `oneiric-otel db roles --reader {role}` as the owner of \
         the schema, which is: {grants}. Then name its connection in --sql-reader-url or OTEL_STORAGE_SQL_READER_URL"
    )
}

impl Database {
    /// Makes a role for SQL of anybody, with this password and with limits of its own, in a database where nobody else
    /// minds: this role must be a superuser. Made before, it gets what it lacks.
    ///
    /// # Errors
    /// When the schema is not up to date, or the database refuses a statement. Then nothing is changed.
    pub async fn make_reader(&self, role: &str, password: &str) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Others who do the same wait here: neither would see the other's role.
        transaction.batch_execute("LOCK TABLE otel.otel_roles IN SHARE ROW EXCLUSIVE MODE").await?;
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1),
                            EXISTS (SELECT FROM otel.otel_roles g JOIN pg_catalog.pg_roles r ON r.oid = g.role
                                    WHERE r.rolname = $1)";
        let there = transaction.query_typed_one(there, &[(&role, Type::TEXT)]).await?;
        let (is_there, is_granted): (bool, bool) = (there.get(0), there.get(1));
        if !is_there {
            transaction.batch_execute(&format!("CREATE ROLE {}", quoted(role))).await?;
        }
        // Also where there was one: the file with the password may be new.
        let password = format!("ALTER ROLE {} PASSWORD {}", quoted(role), literal(password));
        transaction.batch_execute(&password).await?;
        if !is_granted {
            transaction.batch_execute(&limits(role)).await?;
            roles::grant_reader(&transaction, role).await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn limits(role: &str) -> String {
    let role = quoted(role);
    format!(
        "ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 16;
         ALTER ROLE {role} SET default_transaction_read_only = on;
         ALTER ROLE {role} SET statement_timeout = '30s';
         ALTER ROLE {role} SET temp_file_limit = '1GB';
         REVOKE EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend(integer, bigint),
           pg_catalog.pg_cancel_backend(integer) FROM PUBLIC"
    )
}
