//! The id of a template as callers see it.

use serde::{Serialize, Serializer};

use crate::query::QueryError;

/// The id of a template of log records: a whole number of 64 bits, as in the views of SQL. In JSON it is a string of its
/// decimal digits, because JavaScript rounds such numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^-?[0-9]{1,19}$"))]
pub struct TemplateId(pub i64);

impl std::str::FromStr for TemplateId {
    type Err = QueryError;

    /// Accepts decimal digits, with `-` before them or not.
    fn from_str(text: &str) -> Result<Self, QueryError> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| plain).map(Self).ok_or_else(|| QueryError::InvalidArgument {
            name: "template",
            accepted: "a whole number of 64 bits".to_owned(),
        })
    }
}

impl std::fmt::Display for TemplateId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for TemplateId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_in_json_and_come_back() {
        for id in [0, 6_233_839_168_310_720_248, i64::MIN, i64::MAX] {
            let text = TemplateId(id).to_string();
            assert_eq!(serde_json::to_string(&TemplateId(id)).expect("json"), format!("\"{text}\""));
            assert_eq!(text.parse::<TemplateId>().ok(), Some(TemplateId(id)));
        }
        for wrong in ["", "-", "+1", " 1", "1.0", "0x1", "9223372036854775808"] {
            let error = wrong.parse::<TemplateId>().expect_err("no id").to_string();
            assert_eq!(error, "template: expected a whole number of 64 bits", "{wrong}");
        }
    }
}
