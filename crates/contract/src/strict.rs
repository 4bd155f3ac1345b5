//! Refuses requests with fields this contract does not know or of a wrong type, naming every one of them.
//!
//! A silently dropped field is a setting the caller believes in (`docs/errors.md`, "Strict fields"). Types are checked
//! here rather than left to the decoder, because the decoder stops at the first and quotes what was sent, which may be a
//! person's words. Malformed bytes are left to the decoder, which runs on the same bytes afterwards.

use connectrpc::ConnectError;
use connectrpc::codec::CodecFormat;
use connectrpc::interceptor::{
    Interceptor, Next, NextStream, PayloadStream, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse,
};
use futures::StreamExt as _;
use serde_json::Value;
use tandem_types::{Code, Fault, Violation, reason};

use crate::errors::to_wire;

/// Tables of the contract's messages, made by `build.rs`.
mod schema {
    include!(concat!(env!("OUT_DIR"), "/_schema.rs"));
}

use schema::{ENUMS, INPUTS, MESSAGES};

/// Deepest nesting that is looked into.
const MAX_DEPTH: usize = 64;

/// Type of a field, under the names of `google.protobuf.FieldDescriptorProto.Type`. Messages and enums by their index.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "a contract that happens to have no field of a kind may get one")]
enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Enum(usize),
    Message(usize),
}

struct Field {
    number: u32,
    json: &'static str,
    proto: &'static str,
    kind: Kind,
    repeated: bool,
}

struct Message {
    /// Its JSON keys are data, only its values have a type.
    map_entry: bool,
    fields: &'static [Field],
}

/// A whole number in JSON, as a number or as text; `2.0` and `2e3` are whole too.
fn whole(value: &Value) -> Option<i128> {
    let of_text = |text: &str| text.parse::<i128>().ok().or_else(|| of_float(text.parse().ok()?));
    #[allow(clippy::cast_possible_truncation, reason = "checked to be whole and below 2^64")]
    fn of_float(number: f64) -> Option<i128> {
        (number.fract() == 0.0 && number.abs() <= 2f64.powi(64)).then_some(number as i128)
    }
    match value {
        Value::Number(number) => of_text(&number.to_string()),
        Value::String(text) => of_text(text),
        _ => None,
    }
}

fn is_base64(text: &str) -> bool {
    // Both alphabets, with and without padding, as the decoder takes them.
    let body = text.trim_end_matches('=');
    body.len() % 4 != 1 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/-_".contains(&b))
}

impl Field {
    /// What JSON this field takes (Protocol Buffers, "ProtoJSON Format"), when `value` is not that.
    fn misfit(&self, value: &Value) -> Option<String> {
        let within = |from: i128, to: i128| whole(value).is_some_and(|number| (from..=to).contains(&number));
        let (fits, wanted) = match self.kind {
            Kind::String => (value.is_string(), "a text"),
            Kind::Bytes => (value.as_str().is_some_and(is_base64), "bytes as base64 text"),
            Kind::Bool => (value.is_boolean(), "true or false"),
            Kind::Enum(place) => {
                let known = ENUMS[place];
                let number = value.is_number() && within(i32::MIN.into(), i32::MAX.into());
                if number || value.as_str().is_some_and(|name| known.contains(&name)) {
                    return None;
                }
                return Some(format!("one of {}", known.join(", ")));
            }
            Kind::Message(_) => (value.is_object(), "an object"),
            Kind::Double | Kind::Float => {
                let number = value.is_number() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok());
                (number, "a number")
            }
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                (within(i32::MIN.into(), i32::MAX.into()), "a whole number of 32 bits")
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                (within(i64::MIN.into(), i64::MAX.into()), "a whole number of 64 bits")
            }
            Kind::Uint32 | Kind::Fixed32 => (within(0, u32::MAX.into()), "a whole number from 0 to 4294967295"),
            Kind::Uint64 | Kind::Fixed64 => (within(0, u64::MAX.into()), "a whole number from 0 to 2^64 - 1"),
        };
        (!fits).then(|| wanted.to_owned())
    }

    /// The wire type of one value (Protocol Buffers encoding, "Message Structure").
    fn wire_type(&self) -> u64 {
        match self.kind {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
            Kind::String | Kind::Bytes | Kind::Message(_) => 2,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
            _ => 0,
        }
    }

    /// Numbers of a list may also come packed into one run of bytes.
    fn takes(&self, wire_type: u64) -> bool {
        wire_type == self.wire_type() || (self.repeated && wire_type == 2)
    }

    fn message(&self) -> Option<&'static Message> {
        match self.kind {
            Kind::Message(place) => Some(&MESSAGES[place]),
            _ => None,
        }
    }
}

fn below(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn wrong_in_json(schema: &Message, value: &Value, at: &str, depth: usize, found: &mut Vec<Violation>) {
    let Some(object) = value.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    for (key, value) in object {
        let here = below(at, key);
        let Some(field) = schema.fields.iter().find(|f| f.json == *key || f.proto == *key) else {
            let mut known: Vec<&str> = schema.fields.iter().map(|f| f.json).collect();
            known.sort_unstable();
            found.push(Violation { field: here, problem: format!("{UNKNOWN}; known are {}", known.join(", ")) });
            continue;
        };
        if value.is_null() {
            continue;
        }
        let inner = field.message();
        let is_map = inner.is_some_and(|schema| schema.map_entry);
        let misfit = match value.as_array() {
            _ if is_map => (!value.is_object()).then(|| "an object".to_owned()),
            Some(items) if field.repeated => items.iter().find_map(|item| field.misfit(item)),
            _ if field.repeated => Some("a list".to_owned()),
            _ => field.misfit(value),
        };
        if let Some(wanted) = misfit {
            found.push(Violation { field: here, problem: format!("takes {wanted}") });
            continue;
        }
        let Some(inner) = inner else { continue };
        if inner.map_entry {
            let Some(of_value) = inner.fields.iter().find(|f| f.number == 2) else { continue };
            for (key, value) in value.as_object().into_iter().flatten() {
                let here = format!("{here}[{key}]");
                match (of_value.misfit(value), of_value.message()) {
                    (Some(wanted), _) => found.push(Violation { field: here, problem: format!("takes {wanted}") }),
                    (None, Some(schema)) => wrong_in_json(schema, value, &here, depth + 1, found),
                    (None, None) => {}
                }
            }
        } else if let Some(items) = value.as_array() {
            for (i, item) in items.iter().enumerate() {
                wrong_in_json(inner, item, &format!("{here}[{i}]"), depth + 1, found);
            }
        } else {
            wrong_in_json(inner, value, &here, depth + 1, found);
        }
    }
}

/// How the problem of an unknown field begins.
const UNKNOWN: &str = "is not a field";

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Walks the wire format (Protocol Buffers encoding, "Message Structure"); stops quietly where the bytes are malformed,
/// because the decoder says that better.
fn wrong_in_binary(
    schema: &Message,
    mut bytes: &[u8],
    at: &str,
    depth: usize,
    found: &mut Vec<Violation>,
) -> Option<()> {
    while !bytes.is_empty() && depth < MAX_DEPTH {
        let tag = varint(&mut bytes)?;
        let (number, wire_type) = (u32::try_from(tag >> 3).ok()?, tag & 7);
        let payload = match wire_type {
            0 => varint(&mut bytes).map(|_| None)?,
            1 => {
                bytes = bytes.get(8..)?;
                None
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let payload = bytes.get(..length)?;
                bytes = bytes.get(length..)?;
                Some(payload)
            }
            5 => {
                bytes = bytes.get(4..)?;
                None
            }
            _ => return None,
        };
        let Some(field) = schema.fields.iter().find(|field| field.number == number) else {
            let field = below(at, &format!("#{number}"));
            found.push(Violation { field, problem: format!("{UNKNOWN} number of this message") });
            continue;
        };
        let here = below(at, field.proto);
        if !field.takes(wire_type) {
            let problem = format!("has wire type {wire_type} and takes {}", field.wire_type());
            found.push(Violation { field: here, problem });
        } else if let (Some(inner), Some(payload)) = (field.message(), payload) {
            wrong_in_binary(inner, payload, &here, depth + 1, found);
        }
    }
    Some(())
}

/// Every unknown or mistyped field of a request to `path`; empty when there is none or the path is not of this contract.
pub fn wrong_fields(path: &str, bytes: &[u8], json: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let Ok(place) = INPUTS.binary_search_by(|(known, _)| (*known).cmp(path)) else { return found };
    let schema = &MESSAGES[INPUTS[place].1];
    if json {
        if let Ok(value) = serde_json::from_slice(bytes) {
            wrong_in_json(schema, &value, "", 0, &mut found);
        }
    } else {
        wrong_in_binary(schema, bytes, "", 0, &mut found);
    }
    found
}

fn check(path: &str, bytes: &[u8], format: CodecFormat) -> Result<(), ConnectError> {
    let violations = wrong_fields(path, bytes, matches!(format, CodecFormat::Json));
    if violations.is_empty() {
        return Ok(());
    }
    let message = violations.iter().map(|v| format!("{} {}", v.field, v.problem)).collect::<Vec<_>>().join("; ");
    let unknown = violations.iter().any(|v| v.problem.starts_with(UNKNOWN));
    let reason = if unknown { reason::UNKNOWN_FIELD } else { reason::BAD_FIELD };
    Err(to_wire(&Fault { violations, ..Fault::new(Code::InvalidArgument, reason, message) }))
}

/// The interceptor that refuses wrong fields before a handler sees the request.
pub(crate) struct Strict;

#[connectrpc::async_trait]
impl Interceptor for Strict {
    async fn intercept_unary(&self, req: UnaryRequest, next: Next<'_>) -> Result<UnaryResponse, ConnectError> {
        check(req.ctx.path().unwrap_or_default(), req.payload.bytes(), req.payload.format())?;
        next.run(req).await
    }

    async fn intercept_streaming(
        &self,
        req: StreamRequest,
        inbound: PayloadStream,
        next: NextStream<'_>,
    ) -> Result<StreamResponse, ConnectError> {
        let path = req.ctx.path().unwrap_or_default().to_owned();
        let checked = inbound.map(move |item| {
            let payload = item?;
            check(&path, payload.bytes(), payload.format())?;
            Ok(payload)
        });
        next.run(req, Box::pin(checked)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::tandem::session::v1::{AppendTurnRequest, GetWindowRequest, Turn};
    use crate::rpc::sessions;
    use buffa::Message as _;

    fn fields(path: &str, bytes: &[u8], json: bool) -> Vec<String> {
        wrong_fields(path, bytes, json).into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn json_names_every_unknown_field_at_any_depth() {
        let path = sessions::APPEND_TURN.path();
        let good = br#"{"userId":"u","session_id":"s","turn":{"text":"hi","role":"user"}}"#;
        assert_eq!(fields(path, good, true), Vec::<String>::new());
        let bad = br#"{"userId":"u","sesion":"s","turn":{"txt":"hi"}}"#;
        let mut found = fields(path, bad, true);
        found.sort();
        assert_eq!(found, ["sesion", "turn.txt"]);
    }

    #[test]
    fn json_names_every_field_of_a_wrong_type_without_quoting_it() {
        let path = sessions::APPEND_TURN.path();
        let body = br#"{"userId":7,"turn":{"tokens":"many","text":"hi","number":"12"},"idempotencyKey":[]}"#;
        let mut found = wrong_fields(path, body, true);
        found.sort_by(|a, b| a.field.cmp(&b.field));
        let words: Vec<String> = found.iter().map(|v| format!("{} {}", v.field, v.problem)).collect();
        assert_eq!(
            words,
            [
                "idempotencyKey takes bytes as base64 text",
                "turn.tokens takes a whole number from 0 to 4294967295",
                "userId takes a text"
            ]
        );
        let null = br#"{"userId":null,"turn":null}"#;
        assert_eq!(fields(path, null, true), Vec::<String>::new(), "null is the default of every field");
    }

    #[test]
    fn binary_names_unknown_numbers_at_any_depth() {
        let request = AppendTurnRequest {
            user_id: "u".into(),
            turn: Turn { text: "hi".into(), ..Default::default() }.into(),
            ..Default::default()
        };
        let path = sessions::APPEND_TURN.path();
        let mut bytes = request.encode_to_vec();
        assert_eq!(fields(path, &bytes, false), Vec::<String>::new());
        bytes.extend([0xf8, 0x07, 0x01]); // field 127, varint 1
        assert_eq!(fields(path, &bytes, false), ["#127"]);
        // The same unknown field inside `turn` (field 4, length-delimited).
        assert_eq!(fields(path, &[0x22, 0x03, 0xf8, 0x07, 0x01], false), ["turn.#127"]);
    }

    #[test]
    fn json_numbers_enums_and_maps_are_held_to_their_types() {
        let report = crate::rpc::telemetry::REPORT_ERRORS.path();
        let body = |severity: &str, count: &str| {
            format!(r#"{{"errors":[{{"severity":{severity},"count":{count}}}]}}"#).into_bytes()
        };
        for (severity, count, wrong) in [
            (r#""SEVERITY_ERROR""#, "1", vec![]),
            ("3", r#""7""#, vec![]),
            ("3", "2e3", vec![]),
            (r#""SEVERE""#, "1", vec!["errors[0].severity"]),
            (r#""SEVERE""#, "-1", vec!["errors[0].count", "errors[0].severity"]),
            ("3", "1.5", vec!["errors[0].count"]),
            ("3", "4294967296", vec!["errors[0].count"]),
        ] {
            let mut found = fields(report, &body(severity, count), true);
            found.sort();
            assert_eq!(found, wrong, "{severity} {count}");
        }
        let series = crate::rpc::telemetry::QUERY_SERIES.path();
        assert_eq!(fields(series, br#"{"labels":{"a":"b","c":1}}"#, true), ["labels[c]"]);
        let append = sessions::APPEND_TURN.path();
        assert_eq!(fields(append, br#"{"idempotencyKey":"not base64"}"#, true), ["idempotencyKey"]);
        assert_eq!(fields(append, br#"{"idempotencyKey":"AAE-_w=="}"#, true), Vec::<String>::new());
    }

    #[test]
    fn binary_names_fields_of_another_wire_type() {
        let path = sessions::APPEND_TURN.path();
        // `user_id` (field 2) as a varint; `turn` (field 4) with `text` as a fixed64.
        let number = AppendTurnRequest { user_id: "u".into(), ..Default::default() }.encode_to_vec()[0] >> 3;
        assert_eq!(fields(path, &[number << 3, 0x01], false), ["user_id"]);
        let text = Turn { text: "t".into(), ..Default::default() }.encode_to_vec()[0] >> 3;
        assert_eq!(fields(path, &[0x22, 0x09, text << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0], false), ["turn.text"]);
    }

    #[test]
    fn every_rpc_is_checked() {
        for rpc in crate::rpc::ALL {
            let found = wrong_fields(rpc.path, br#"{"no_such_field":1}"#, true);
            assert_eq!(found.len(), 1, "{}", rpc.path);
        }
    }

    #[test]
    fn malformed_bytes_are_left_to_the_decoder() {
        for bytes in [&b"\xff"[..], b"\x0a\xff\xff", b"{"] {
            for json in [true, false] {
                assert_eq!(fields(sessions::GET_WINDOW.path(), bytes, json), Vec::<String>::new());
            }
        }
        assert_eq!(GetWindowRequest::default().encode_to_vec().len(), 0);
    }
}
