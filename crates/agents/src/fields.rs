//! Reads the fields of a request and says everything that is wrong with them at once.

use std::fmt::Display;
use std::str::FromStr;

use tandem_types::{Fault, IdempotencyKey, Violation};

/// Collects what is wrong with a request.
///
/// Each reader returns `None` for a wrong field and goes on; [`Fields::all`] then hands out the values or every problem:
/// `let (user, key) = fields.all(user.zip(key))?`.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<Violation>);

impl Fields {
    /// Notes that a field is wrong.
    pub(crate) fn wrong(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Violation { field: field.into(), problem: problem.into() });
    }

    /// Notes that a field is wrong unless `ok`.
    pub(crate) fn require(&mut self, ok: bool, field: &str, problem: &str) {
        if !ok {
            self.wrong(field, problem);
        }
    }

    /// A text that must be of the form of `T`.
    pub(crate) fn parse<T>(&mut self, field: &str, text: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let problem = if text.is_empty() {
            "is missing".to_owned()
        } else {
            match text.parse() {
                Ok(value) => return Some(value),
                Err(problem) => problem.to_string(),
            }
        };
        self.wrong(field, problem);
        None
    }

    /// As [`Fields::parse`], where an empty text means none.
    pub(crate) fn optional<T>(&mut self, field: &str, text: &str) -> Option<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        if text.is_empty() { Some(None) } else { self.parse(field, text).map(Some) }
    }

    /// The key that makes a write safe to send twice.
    pub(crate) fn key(&mut self, bytes: &[u8]) -> Option<IdempotencyKey> {
        match bytes.try_into() {
            Ok(key) => Some(IdempotencyKey(key)),
            Err(_) => {
                self.wrong("idempotency_key", format!("has {} bytes; send 16 fresh random bytes", bytes.len()));
                None
            }
        }
    }

    /// A number that takes `default` for 0 and must not pass `most`.
    pub(crate) fn at_most(&mut self, field: &str, value: u32, default: u32, most: u32) -> Option<u32> {
        if value > most {
            self.wrong(field, format!("is {value}; at most {most} are allowed"));
            return None;
        }
        Some(if value == 0 { default } else { value })
    }

    /// A text that is empty or JSON.
    pub(crate) fn json(&mut self, field: &str, text: &str) {
        let ok = text.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        self.require(ok, field, "is not JSON");
    }

    /// The values, unless anything was wrong.
    pub(crate) fn all<T>(self, values: Option<T>) -> Result<T, Fault> {
        match values {
            Some(values) if self.0.is_empty() => Ok(values),
            _ => Err(Fault::invalid(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_types::{SessionId, UserId};

    #[test]
    fn every_problem_is_said() {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", "");
        let session = fields.optional::<SessionId>("session_id", "a b");
        let key = fields.key(&[1, 2]);
        let size = fields.at_most("max_items", 21, 20, 20);
        fields.json("source_json", "{");
        let fault = fields.all(user.zip(session).zip(key).zip(size)).unwrap_err();
        let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(named, ["user_id", "session_id", "idempotency_key", "max_items", "source_json"]);
    }

    #[test]
    fn right_fields_come_through() {
        let mut fields = Fields::default();
        let session = fields.optional::<SessionId>("session_id", "");
        let size = fields.at_most("max_items", 0, 20, 20);
        fields.json("source_json", r#"{"a":1}"#);
        assert_eq!(fields.all(session.zip(size)).unwrap(), (None, 20));
    }
}
