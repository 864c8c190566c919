//! Roles that use the schema and do not own it.
//!
//! Three roles share a database. The *owner* runs migrations. A *writer* does what a server and an import do, and can
//! neither drop nor alter anything. A *reader* can read the friendly views, and nothing else.
//!
//! Roles are made by whoever runs the database; here they are granted their part. The grants are of objects of this
//! schema alone. Which role has which part is remembered in `otel_roles`: tables that are made later, by a migration or
//! for a new model, are granted to them as they are made.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::database::Database;
use super::error::StoreError;
use super::migrate::SCHEMA_VERSION;

/// The friendly views.
pub(super) const VIEWS: &[&str] = &[
    "spans",
    "logs",
    "metrics",
    "traces",
    "span_events",
    "span_links",
    "trace_texts",
    "resources",
    "scopes",
    "metric_series",
    "log_templates",
];

/// What the views call, with the rights of whoever reads them.
pub(super) const VIEW_FUNCTIONS: &[&str] = &[
    "otel_attr(jsonb, text)",
    "otel_attr_number(jsonb, text)",
    "otel_attr_integer(jsonb, text)",
    "otel_hash_vector(uuid)",
];

/// What a writer may do with tables. To lock a row, and a table against other writers, takes the right to update it.
const WRITER_TABLES: &[(&str, &[&str])] = &[
    (
        "SELECT",
        &[
            "otel_migrations",
            "otel_errors",
            "otel_early_traces",
            "otel_partitioned_tables",
            "otel_partition_writes",
            "otel_dropped_partitions",
            "otel_retention_clock",
            "otel_retirements",
            "otel_collection",
            "otel_collected",
        ],
    ),
    ("SELECT, INSERT", &["otel_spans", "otel_logs", "otel_metrics"]),
    ("SELECT, INSERT, UPDATE (last_seen)", SHARED_TABLES),
    ("SELECT, INSERT, UPDATE (last_seen)", &["otel_log_templates"]),
    ("SELECT, INSERT, UPDATE", &["otel_traces", "otel_trace_keys", "otel_texts"]),
    ("SELECT, INSERT, UPDATE", &["otel_metric_rollups", "otel_metric_hours"]),
    ("SELECT, INSERT, DELETE", &["otel_metric_touches"]),
    ("SELECT, INSERT, UPDATE, DELETE", &["otel_embedding_fallback", "otel_spools"]),
    ("SELECT, UPDATE", &["otel_metric_rollup_state"]),
    ("SELECT, INSERT, DELETE", &["otel_ingest_ledger", "otel_trace_texts"]),
    (
        "SELECT, INSERT, UPDATE, DELETE",
        &["otel_telemetry_dlq", "otel_trace_touches", "otel_trace_orphans", "otel_embedding_work"],
    ),
    ("SELECT, INSERT, UPDATE", &["otel_log_template_vectors", "otel_embedding_progress"]),
    ("SELECT, UPDATE", &["otel_trace_slots", "otel_jobs", "otel_leases"]),
    ("SELECT, UPDATE (last_used)", &["otel_embedding_models"]),
];

/// Tables whose rows many records share. A writer brings retired rows back, where there are any: columns of migration 17.
const SHARED_TABLES: &[&str] = &["otel_resources", "otel_scopes", "otel_metric_series"];
const BRING_BACK: &str = "UPDATE (content_hash, retirement)";
const RETIREMENTS: &str = "otel_retirements";

/// What a writer may do with the tables of vectors. The function `otel_register_model` grants the same.
const WRITER_VECTORS: &str = "SELECT, INSERT";

const WRITER_FUNCTIONS: &[&str] = &[
    "otel_text_words(text)",
    "otel_partitions(text)",
    "otel_ensure_partition(text, timestamptz)",
    "otel_make_partitions()",
    "otel_vector_schema()",
    "otel_register_model(text, text, integer)",
    "otel_build_vector_index(smallint)",
    "otel_complete_model(smallint)",
    "otel_drop_replaced_model()",
    "otel_split_words(text)",
    "otel_log_words(text, jsonb, text, jsonb)",
    "otel_error_id(text, text)",
    "otel_trigrams(text)",
    "otel_error_trigrams(text, text)",
    "otel_note_errors_before(timestamptz[], text[], text[])",
    "otel_forget_errors()",
    "otel_note_writes(text, timestamptz[])",
    "otel_turned_over(uuid)",
];

/// Roles to be granted their part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grantees {
    /// Does what a server and an import do.
    pub writer: Option<String>,
    /// Reads the views.
    pub reader: Option<String>,
}

impl Grantees {
    fn parts(&self) -> impl Iterator<Item = (Part, &str)> {
        let writer = self.writer.as_deref().map(|role| (Part::Writer, role));
        let reader = self.reader.as_deref().map(|role| (Part::Reader, role));
        writer.into_iter().chain(reader)
    }
}

/// What [`Database::grant_roles`] did or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Granted {
    /// The statements, in order, without a semicolon.
    pub statements: Vec<String>,
    /// What the roles lack of what is not ours to grant, or have too much of, with what to do about it.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Writer,
    Reader,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }

    fn of(word: &str) -> Self {
        if word == "writer" { Self::Writer } else { Self::Reader }
    }
}

impl Database {
    /// Grants existing roles what their part needs, in one transaction. Granted before, nothing changes. With
    /// `dry_run`, says what would be done and does nothing.
    ///
    /// # Errors
    /// When a role is not there, when it has another part already, when the schema is not up to date or belongs to
    /// another role than this, or when the database refuses a statement. Then nothing is granted.
    pub async fn grant_roles(&self, grantees: &Grantees, dry_run: bool) -> Result<Granted, StoreError> {
        let state = self.migration_state().await?;
        if let Some(conflict) = state.conflict {
            return Err(StoreError::misconfigured(conflict));
        }
        if !state.pending.is_empty() {
            return Err(StoreError::misconfigured(format!(
                "the schema is at version {}, this program needs {SCHEMA_VERSION}: run `oneiric-otel db migrate` first",
                state.version
            )));
        }
        if !self.owns_schema().await? {
            return Err(StoreError::misconfigured(
                "this role does not own the schema otel, and so cannot grant what is in it: connect as its owner",
            ));
        }
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mut granted = Granted::default();
        for (part, role) in grantees.parts() {
            granted.notes.extend(examine(&transaction, part, role).await?);
            granted.statements.extend(statements(&transaction, part, role).await?);
            granted.statements.push(remember(part, role));
        }
        if dry_run {
            return Ok(granted);
        }
        for statement in &granted.statements {
            transaction.batch_execute(statement).await?;
        }
        transaction.commit().await?;
        Ok(granted)
    }
}

/// Makes a role a reader.
pub(super) async fn grant_reader(transaction: &Transaction<'_>, role: &str) -> Result<(), StoreError> {
    for statement in statements(transaction, Part::Reader, role).await? {
        transaction.batch_execute(&statement).await?;
    }
    Ok(transaction.batch_execute(&remember(Part::Reader, role)).await?)
}

/// Grants the roles that have a part what they lack of it, after a migration.
pub(crate) async fn renew(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let there = transaction.query_one("SELECT to_regclass('otel.otel_roles') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        return Ok(());
    }
    let roles = transaction
        .query(
            "SELECT r.rolname::text, g.part FROM otel.otel_roles g JOIN pg_roles r ON r.oid = g.role ORDER BY 1",
            &[],
        )
        .await?;
    for row in roles {
        for statement in statements(transaction, Part::of(row.get(1)), row.get(0)).await? {
            transaction.batch_execute(&statement).await?;
        }
    }
    Ok(())
}

/// What a role needs, of what is there.
async fn statements(transaction: &Transaction<'_>, part: Part, role: &str) -> Result<Vec<String>, StoreError> {
    let role = quoted(role);
    let mut statements = vec![format!("GRANT USAGE ON SCHEMA otel TO {role}")];
    let mut grant = |rights: &str, kind: &str, objects: &[String]| {
        if !objects.is_empty() {
            statements.push(format!("GRANT {rights} ON {kind} {} TO {role}", objects.join(", ")));
        }
    };
    grant("SELECT", "TABLE", &present(transaction, "to_regclass", VIEWS).await?);
    grant("EXECUTE", "FUNCTION", &present(transaction, "to_regprocedure", VIEW_FUNCTIONS).await?);
    if part == Part::Reader {
        return Ok(statements);
    }
    for (rights, tables) in WRITER_TABLES {
        grant(rights, "TABLE", &present(transaction, "to_regclass", tables).await?);
    }
    if !present(transaction, "to_regclass", &[RETIREMENTS]).await?.is_empty() {
        grant(BRING_BACK, "TABLE", &present(transaction, "to_regclass", SHARED_TABLES).await?);
    }
    grant(WRITER_VECTORS, "TABLE", &vector_tables(transaction).await?);
    grant("EXECUTE", "FUNCTION", &present(transaction, "to_regprocedure", WRITER_FUNCTIONS).await?);
    Ok(statements)
}

/// Those of these objects of the schema that are there, with its name.
async fn present(transaction: &Transaction<'_>, look_up: &str, names: &[&str]) -> Result<Vec<String>, StoreError> {
    let names: Vec<String> = names.iter().map(|name| format!("otel.{name}")).collect();
    let sql = format!(
        "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS u (name, place)
         WHERE {look_up}(name) IS NOT NULL ORDER BY place"
    );
    let rows = transaction.query_typed(&sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn vector_tables(transaction: &Transaction<'_>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name FROM (SELECT model_id, format('otel.otel_embeddings_%s', model_id) AS name
                                 FROM otel.otel_embedding_models) m
               WHERE to_regclass(name) IS NOT NULL ORDER BY model_id";
    Ok(transaction.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Finds out whether a role can have a part. Returns what else is to be said about it.
async fn examine(transaction: &Transaction<'_>, part: Part, role: &str) -> Result<Vec<String>, StoreError> {
    let found = transaction
        .query_typed_opt(
            "SELECT r.rolsuper,
                    pg_has_role(r.oid, c.relowner, 'MEMBER'),
                    (SELECT part FROM otel.otel_roles g WHERE g.role = r.oid AND g.part <> $2),
                    quote_ident(current_database()),
                    has_database_privilege(r.oid, current_database(), 'CONNECT'),
                    has_database_privilege(r.oid, current_database(), 'TEMPORARY'),
                    quote_ident(v.schema),
                    v.schema = 'otel' OR has_schema_privilege(r.oid, v.schema::text, 'USAGE')
             FROM pg_roles r, pg_class c, otel.otel_vector_schema() v (schema)
             WHERE r.rolname = $1 AND c.oid = 'otel.otel_migrations'::regclass",
            &[(&role, Type::TEXT), (&part.as_str(), Type::TEXT)],
        )
        .await?;
    let name = quoted(role);
    let Some(row) = found else {
        return Err(StoreError::misconfigured(format!(
            "there is no role {name}; make it with: CREATE ROLE {name} LOGIN PASSWORD '...'"
        )));
    };
    let (superuser, owner): (bool, bool) = (row.get(0), row.get(1));
    if let Some(other) = row.get::<_, Option<&str>>(2) {
        return Err(StoreError::misconfigured(format!(
            "role {name} was granted the part of the {other} before: take another role as {}",
            part.as_str()
        )));
    }
    let mut notes = Vec::new();
    if superuser {
        notes.push(format!("role {name} is a superuser: it may do everything, whatever it is granted"));
    } else if owner {
        notes.push(format!("role {name} has the rights of the schema's owner: it may drop and alter everything in it"));
    }
    let database: &str = row.get(3);
    if !row.get::<_, bool>(4) {
        notes.push(format!("role {name} may not connect: run GRANT CONNECT ON DATABASE {database} TO {name}"));
    }
    if part == Part::Writer && !row.get::<_, bool>(5) {
        // Where rows are checked one by one.
        notes.push(format!(
            "role {name} may not make temporary tables: run GRANT TEMPORARY ON DATABASE {database} TO {name}"
        ));
    }
    if let (Some(schema), Some(false)) = (row.get::<_, Option<&str>>(6), row.get::<_, Option<bool>>(7)) {
        notes.push(format!(
            "role {name} may not use schema {schema}, in which pgvector lies: run GRANT USAGE ON SCHEMA {schema} TO {name}"
        ));
    }
    Ok(notes)
}

fn remember(part: Part, role: &str) -> String {
    let role = literal(&quoted(role));
    format!(
        "INSERT INTO otel.otel_roles (role, part) VALUES ({role}::regrole, '{}') ON CONFLICT DO NOTHING",
        part.as_str()
    )
}

/// A name in SQL, whatever its characters.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in SQL, whatever its characters and whether backslashes escape.
pub(super) fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_strings_are_quoted() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("a\"b; DROP"), "\"a\"\"b; DROP\"");
        assert_eq!(literal("it's \\ \"x\""), " E'it''s \\\\ \"x\"'");
    }
}
