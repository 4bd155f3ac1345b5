//! Refuses requests with fields this contract does not know, and JSON fields of a wrong type, naming every one of them.
//!
//! A silently dropped field is a setting the caller believes in (`docs/errors.md`, "Strict fields"). Types are checked
//! here rather than left to the decoder, because the decoder stops at the first and quotes what was sent, which may be a
//! person's words. Malformed bytes are left to the decoder, which runs on the same bytes afterwards.

use std::collections::HashMap;
use std::sync::LazyLock;

use buffa::Message as _;
use buffa_descriptor::generated::descriptor::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type as FieldType},
};
use connectrpc::ConnectError;
use connectrpc::codec::CodecFormat;
use connectrpc::interceptor::{
    Interceptor, Next, NextStream, PayloadStream, StreamRequest, StreamResponse, UnaryRequest, UnaryResponse,
};
use futures::StreamExt as _;
use tandem_types::{Code, Fault, Violation, reason};

use crate::DESCRIPTOR_SET;
use crate::errors::to_wire;

/// Deepest nesting that is looked into.
const MAX_DEPTH: usize = 64;

struct Field {
    json: String,
    proto: String,
    kind: FieldType,
    repeated: bool,
    /// The message type this field holds, if it holds one.
    message: Option<String>,
}

impl Field {
    /// What JSON this field takes (Protocol Buffers, "ProtoJSON Format"), when `value` is not that.
    fn misfit(&self, value: &serde_json::Value) -> Option<&'static str> {
        use FieldType as T;
        let numeric = |v: &serde_json::Value| v.is_number() || v.as_str().is_some_and(|t| t.parse::<f64>().is_ok());
        let (fits, wanted) = match self.kind {
            T::TYPE_STRING => (value.is_string(), "a text"),
            T::TYPE_BYTES => (value.is_string(), "bytes as base64 text"),
            T::TYPE_BOOL => (value.is_boolean(), "true or false"),
            T::TYPE_ENUM => (value.is_string() || value.is_number(), "one of the enum's names"),
            T::TYPE_MESSAGE | T::TYPE_GROUP => (value.is_object(), "an object"),
            _ => (numeric(value), "a number"),
        };
        (!fits).then_some(wanted)
    }
}

#[derive(Default)]
struct Schema {
    fields: HashMap<u32, Field>,
    /// A map entry: its JSON keys are data, only its values have a type.
    map_entry: bool,
}

struct Index {
    messages: HashMap<String, Schema>,
    inputs: HashMap<String, String>,
}

impl Index {
    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name.as_deref().unwrap_or_default());
        let mut schema = Schema {
            map_entry: message.options.as_option().is_some_and(|o| o.map_entry == Some(true)),
            ..Schema::default()
        };
        for field in &message.field {
            let proto = field.name.clone().unwrap_or_default();
            let is_message = field.r#type == Some(FieldType::TYPE_MESSAGE);
            schema.fields.insert(
                u32::try_from(field.number.unwrap_or_default()).unwrap_or_default(),
                Field {
                    json: field.json_name.clone().unwrap_or_else(|| proto.clone()),
                    proto,
                    kind: field.r#type.unwrap_or(FieldType::TYPE_STRING),
                    repeated: field.label == Some(Label::LABEL_REPEATED),
                    message: is_message.then(|| field.type_name.clone().unwrap_or_default()),
                },
            );
        }
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, schema);
    }

    fn read(bytes: &[u8]) -> Self {
        let set = FileDescriptorSet::decode_from_slice(bytes).unwrap_or_default();
        let mut index = Self { messages: HashMap::new(), inputs: HashMap::new() };
        for file in &set.file {
            let package = file.package.as_deref().unwrap_or_default();
            for message in &file.message_type {
                index.add(&format!(".{package}"), message);
            }
            for service in &file.service {
                for method in &service.method {
                    let path = format!(
                        "/{package}.{}/{}",
                        service.name.as_deref().unwrap_or_default(),
                        method.name.as_deref().unwrap_or_default()
                    );
                    index.inputs.insert(path, method.input_type.clone().unwrap_or_default());
                }
            }
        }
        index
    }
}

static INDEX: LazyLock<Index> = LazyLock::new(|| Index::read(DESCRIPTOR_SET));

fn wrong_in_json(schema: &Schema, value: &serde_json::Value, at: &str, depth: usize, found: &mut Vec<Violation>) {
    let Some(object) = value.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    for (key, value) in object {
        let here = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let Some(field) = schema.fields.values().find(|f| f.json == *key || f.proto == *key) else {
            let mut known: Vec<&str> = schema.fields.values().map(|f| f.json.as_str()).collect();
            known.sort_unstable();
            found.push(Violation { field: here, problem: format!("is not a field; known are {}", known.join(", ")) });
            continue;
        };
        if value.is_null() {
            continue;
        }
        let inner = field.message.as_ref().and_then(|name| INDEX.messages.get(name));
        let is_map = inner.is_some_and(|schema| schema.map_entry);
        let misfit = match value.as_array() {
            _ if is_map => (!value.is_object()).then_some("an object"),
            Some(items) if field.repeated => items.iter().find_map(|item| field.misfit(item)),
            _ if field.repeated => Some("a list"),
            _ => field.misfit(value),
        };
        if let Some(wanted) = misfit {
            found.push(Violation { field: here, problem: format!("takes {wanted}") });
            continue;
        }
        let Some(inner) = inner else { continue };
        if inner.map_entry {
            let of_value = inner.fields.get(&2).and_then(|f| f.message.as_ref());
            if let (Some(schema), Some(entries)) = (of_value.and_then(|n| INDEX.messages.get(n)), value.as_object()) {
                for (key, value) in entries {
                    wrong_in_json(schema, value, &format!("{here}[{key}]"), depth + 1, found);
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
fn unknown_in_binary(
    schema: &Schema,
    mut bytes: &[u8],
    at: &str,
    depth: usize,
    found: &mut Vec<Violation>,
) -> Option<()> {
    while !bytes.is_empty() && depth < MAX_DEPTH {
        let tag = varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let payload = match tag & 7 {
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
        match schema.fields.get(&number) {
            None => found.push(Violation {
                field: if at.is_empty() { format!("#{number}") } else { format!("{at}.#{number}") },
                problem: "is not a field number of this message".to_owned(),
            }),
            Some(Field { message: Some(name), proto, .. }) => {
                if let (Some(inner), Some(payload)) = (INDEX.messages.get(name), payload) {
                    let here = if at.is_empty() { proto.clone() } else { format!("{at}.{proto}") };
                    unknown_in_binary(inner, payload, &here, depth + 1, found);
                }
            }
            Some(_) => {}
        }
    }
    Some(())
}

/// Every unknown or mistyped field of a request to `path`; empty when there is none or the path is not of this contract.
pub fn wrong_fields(path: &str, bytes: &[u8], json: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(schema) = INDEX.inputs.get(path).and_then(|name| INDEX.messages.get(name)) else { return found };
    if json {
        if let Ok(value) = serde_json::from_slice(bytes) {
            wrong_in_json(schema, &value, "", 0, &mut found);
        }
    } else {
        unknown_in_binary(schema, bytes, "", 0, &mut found);
    }
    found
}

fn check(path: &str, bytes: &[u8], format: CodecFormat) -> Result<(), ConnectError> {
    let violations = wrong_fields(path, bytes, matches!(format, CodecFormat::Json));
    if violations.is_empty() {
        return Ok(());
    }
    let message = violations.iter().map(|v| format!("{} {}", v.field, v.problem)).collect::<Vec<_>>().join("; ");
    Err(to_wire(&Fault { violations, ..Fault::new(Code::InvalidArgument, reason::UNKNOWN_FIELD, message) }))
}

/// The interceptor that refuses unknown fields before a handler sees the request.
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
            ["idempotencyKey takes bytes as base64 text", "turn.tokens takes a number", "userId takes a text"]
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
    fn malformed_bytes_are_left_to_the_decoder() {
        for bytes in [&b"\xff"[..], b"\x0a\xff\xff", b"{"] {
            for json in [true, false] {
                assert_eq!(fields(sessions::GET_WINDOW.path(), bytes, json), Vec::<String>::new());
            }
        }
        assert_eq!(GetWindowRequest::default().encode_to_vec().len(), 0);
    }
}
