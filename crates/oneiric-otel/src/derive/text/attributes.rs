//! A span's attributes by their current names, whichever convention wrote them.

use serde_json::{Map, Value};

/// Current name and the names it had before, newest first. The stored keys stay as they came.
const ALIASES: &[(&str, &[&str])] = &[
    ("http.request.method", &["http.method"]),
    ("http.response.status_code", &["http.status_code"]),
    ("http.route", &["http.target", "url.path"]),
    ("url.path", &["http.target"]),
    ("url.full", &["http.url"]),
    ("server.address", &["net.peer.name", "http.server_name", "net.sock.peer.name", "net.host.name", "peer.hostname"]),
    ("network.peer.address", &["net.sock.peer.addr", "net.peer.ip"]),
    ("db.system.name", &["db.system", "db.type"]),
    ("db.query.text", &["db.statement"]),
    ("db.query.summary", &[]),
    ("db.operation.name", &["db.operation"]),
    ("db.namespace", &["db.name", "db.instance", "db.redis.database_index"]),
    ("db.collection.name", &["db.sql.table", "db.mongodb.collection", "db.cassandra.table", "db.cosmosdb.container"]),
    ("db.response.status_code", &["db.cosmosdb.status_code"]),
    ("rpc.system.name", &["rpc.system"]),
    (
        "rpc.status_code",
        &[
            "rpc.response.status_code",
            "rpc.grpc.status_code",
            "rpc.connect_rpc.error_code",
            "rpc.jsonrpc.error_code",
            "grpc.status_code",
        ],
    ),
    ("messaging.operation.type", &["messaging.operation"]),
    ("messaging.destination.name", &["messaging.destination"]),
    ("service.peer.name", &["peer.service"]),
    ("gen_ai.provider.name", &["gen_ai.system", "llm.provider", "llm.system"]),
    ("gen_ai.request.model", &["gen_ai.response.model", "llm.model_name", "llm.request.model"]),
    ("gen_ai.agent.name", &["agent.name", "graph.node.id"]),
    ("gen_ai.tool.name", &["tool.name"]),
    ("gen_ai.operation.name", &["openinference.span.kind", "traceloop.span.kind", "llm.request.type"]),
    ("code.function.name", &["code.function"]),
    ("faas.name", &[]),
];

/// Attributes and events of one span.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes {
    /// The attributes as stored.
    pub values: Map<String, Value>,
    /// Name and attributes of each event.
    pub events: Vec<(String, Map<String, Value>)>,
}

impl Attributes {
    /// Reads the stored JSON: an object of attributes, and a list of events with `name` and `attributes`. What is not of
    /// that form is left out: a text must not fail for it.
    pub fn parse(attributes: &str, events: Option<&str>) -> Self {
        let values = match serde_json::from_str(attributes) {
            Ok(Value::Object(values)) => values,
            _ => Map::new(),
        };
        let mut read = Vec::new();
        if let Some(Ok(Value::Array(events))) = events.map(serde_json::from_str) {
            for event in events {
                let Value::Object(mut event) = event else { continue };
                let Some(Value::String(name)) = event.remove("name") else { continue };
                if let Some(Value::Object(attributes)) = event.remove("attributes") {
                    read.push((name, attributes));
                }
            }
        }
        Self { values, events: read }
    }

    /// The value under a current name or, failing that, under one of its former names.
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.values.get(name) {
            return Some(value);
        }
        let (_, former) = ALIASES.iter().find(|(current, _)| *current == name)?;
        former.iter().find_map(|former| self.values.get(*former))
    }

    /// Text that is not blank, or a number or boolean written as text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => (!text.trim().is_empty()).then(|| text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// An integer, also when it came as text.
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_give_the_same() {
        let old =
            Attributes::parse(r#"{"http.status_code": "503", "db.system": "redis", "peer.service": "billing"}"#, None);
        let new = Attributes::parse(
            r#"{"http.response.status_code": 503, "db.system.name": "redis", "service.peer.name": "billing"}"#,
            None,
        );
        for attributes in [old, new] {
            assert_eq!(attributes.integer("http.response.status_code"), Some(503));
            assert_eq!(attributes.text("db.system.name").as_deref(), Some("redis"));
            assert_eq!(attributes.text("service.peer.name").as_deref(), Some("billing"));
        }
    }

    #[test]
    fn the_current_name_wins() {
        let both = Attributes::parse(r#"{"db.system": "mysql", "db.system.name": "mariadb"}"#, None);
        assert_eq!(both.text("db.system.name").as_deref(), Some("mariadb"));
    }

    #[test]
    fn odd_json_is_left_out() {
        let odd =
            Attributes::parse("[1]", Some(r#"[3, {"name": 4}, {"name": "a"}, {"name": "b", "attributes": {"k": 1}}]"#));
        assert!(odd.values.is_empty());
        assert_eq!(odd.events.len(), 1);
        assert_eq!(Attributes::parse("{", Some("{")), Attributes::default());
    }
}
