//! A span's attributes by their current names, whichever convention wrote them.

use serde_json::{Map, Value};

use crate::conventions::convention;

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

    /// The value under a current name or, failing that, under one of its former names or of what stands in for it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.values.get(name) {
            return Some(value);
        }
        let known = convention(name)?;
        known.former.iter().chain(known.stand_ins).find_map(|other| self.values.get(*other))
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
