//! Conditions on attributes, in SQL.
//!
//! A condition on equality is an OR of `attributes @> document`, which a GIN index with jsonb_path_ops answers where a
//! partition has one, and which is right without. The resources that match are looked up first: joined in, they would
//! keep the index from being used.

use tokio_postgres::types::{ToSql, Type};

use super::database::Database;
use super::error::StoreError;

/// Values of a statement with their types: such a statement needs no name, and so no connection of its own.
pub(crate) type Values<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

/// Resources that are looked up one by one at most; of more, the condition is asked of each span's resource.
const MAX_RESOURCES: usize = 5000;

/// A text that PostgreSQL reads as a number without fail: no double and no integer is written with more characters, and
/// with so few of them and such an exponent it has fewer digits than a numeric may.
const NUMBER: &str = r"'^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$'";
const NUMBER_CHARACTERS: usize = 1100;

/// What an attribute must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttributeCondition {
    /// Its names, which mean the same.
    names: Vec<String>,
    test: AttributeTest,
    resources: Resources,
}

/// See [`AttributeCondition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttributeTest {
    /// It is there.
    Exists,
    /// The attributes contain one of these JSON documents.
    Equal(Vec<String>),
    /// It is there, and the attributes contain none of these JSON documents.
    NotEqual(Vec<String>),
    /// It is a number, or a text that is one, and compares so to this number.
    Compare {
        /// `>`, `>=`, `<` or `<=`.
        operator: &'static str,
        /// As PostgreSQL reads it.
        number: String,
    },
    /// Its text fits this pattern.
    Like {
        /// The operator of SQL.
        operator: &'static str,
        /// What stands right of it.
        operand: String,
    },
}

/// Which resources match.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resources {
    /// Not looked up, or too many.
    Unknown,
    /// These.
    Known(Vec<i64>),
}

impl AttributeCondition {
    pub(crate) fn new(names: Vec<String>, test: AttributeTest) -> Self {
        Self { names, test, resources: Resources::Unknown }
    }

    /// The condition on a row of `otel_spans s`, or of its resource.
    pub(crate) fn on_span<'a>(&'a self, values: &mut Values<'a>) -> String {
        let own = self.on_column("s.attributes", values);
        match &self.resources {
            Resources::Known(resources) if resources.is_empty() => own,
            Resources::Known(resources) => {
                let resources = push(values, resources, Type::INT8_ARRAY);
                format!("({own} OR s.resource_id = ANY({resources}))")
            }
            Resources::Unknown => {
                let resource = self.on_column("r.attributes", values);
                format!(
                    "({own} OR s.resource_id IN (SELECT r.resource_id FROM otel.otel_resources r WHERE {resource}))"
                )
            }
        }
    }

    fn on_column<'a>(&'a self, attributes: &str, values: &mut Values<'a>) -> String {
        match &self.test {
            AttributeTest::Exists => self.any_name(attributes, values),
            AttributeTest::Equal(documents) => any_document(attributes, documents, values),
            AttributeTest::NotEqual(documents) => {
                let there = self.any_name(attributes, values);
                format!("({there} AND NOT {})", any_document(attributes, documents, values))
            }
            AttributeTest::Compare { operator, number } => {
                let number = push(values, number, Type::TEXT);
                self.each_name(values, |name| {
                    let (value, text) = (format!("({attributes} -> {name})"), format!("({attributes} ->> {name})"));
                    format!(
                        "CASE jsonb_typeof({value})
                           WHEN 'number' THEN {value}::numeric {operator} {number}::numeric
                           WHEN 'string' THEN CASE WHEN length({text}) <= {NUMBER_CHARACTERS} AND {text} ~ {NUMBER}
                                                   THEN {text}::numeric {operator} {number}::numeric ELSE false END
                           ELSE false END"
                    )
                })
            }
            AttributeTest::Like { operator, operand } => {
                let pattern = push(values, operand, Type::TEXT);
                self.each_name(values, |name| format!("({attributes} ->> {name}) {operator} {pattern}"))
            }
        }
    }

    fn any_name<'a>(&'a self, attributes: &str, values: &mut Values<'a>) -> String {
        self.each_name(values, |name| format!("{attributes} ? {name}"))
    }

    fn each_name<'a>(&'a self, values: &mut Values<'a>, condition: impl Fn(&str) -> String) -> String {
        let each: Vec<String> = self.names.iter().map(|name| condition(&push(values, name, Type::TEXT))).collect();
        format!("({})", each.join(" OR "))
    }
}

fn any_document<'a>(attributes: &str, documents: &'a [String], values: &mut Values<'a>) -> String {
    let each: Vec<String> = documents
        .iter()
        .map(|document| format!("{attributes} @> {}::jsonb", push(values, document, Type::TEXT)))
        .collect();
    format!("({})", each.join(" OR "))
}

/// Appends a value and returns how a statement names it.
pub(crate) fn push<'a>(values: &mut Values<'a>, value: &'a (dyn ToSql + Sync), kind: Type) -> String {
    values.push((value, kind));
    format!("${}", values.len())
}

impl Database {
    /// Looks up which resources match each condition, so that statements with them can use indexes.
    pub(crate) async fn resolve_resources(&self, conditions: &mut [AttributeCondition]) -> Result<(), StoreError> {
        if conditions.is_empty() {
            return Ok(());
        }
        let reader = self.reader().await?;
        for condition in conditions {
            let mut values: Values<'_> = Vec::new();
            let on_resource = condition.on_column("r.attributes", &mut values);
            let sql = format!(
                "SELECT r.resource_id FROM otel.otel_resources r WHERE {on_resource} LIMIT {}",
                MAX_RESOURCES + 1
            );
            let found: Vec<i64> = reader.query_typed(&sql, &values).await?.iter().map(|row| row.get(0)).collect();
            if found.len() <= MAX_RESOURCES {
                condition.resources = Resources::Known(found);
            }
        }
        Ok(())
    }

    /// Whether a service by this name has ever sent anything that is still stored.
    pub(crate) async fn knows_service(&self, service: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM otel.otel_resources WHERE left(service_name, 256) = left($1, 256))";
        Ok(self.reader().await?.query_typed_one(sql, &[(&service, Type::TEXT)]).await?.get(0))
    }

    /// Names of services, in alphabetical order, at most `limit`.
    pub(crate) async fn service_names(&self, limit: i64) -> Result<Vec<String>, StoreError> {
        // From name to name through the index: there may be many resources of few services.
        let sql = "WITH RECURSIVE names AS (
                     (SELECT left(service_name, 256) AS name FROM otel.otel_resources ORDER BY 1 LIMIT 1)
                     UNION ALL
                     SELECT (SELECT left(r.service_name, 256) FROM otel.otel_resources r
                             WHERE left(r.service_name, 256) > n.name ORDER BY 1 LIMIT 1)
                     FROM names n WHERE n.name IS NOT NULL
                   )
                   SELECT name FROM names WHERE name IS NOT NULL LIMIT $1";
        let rows = self.reader().await?.query_typed(sql, &[(&limit, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
