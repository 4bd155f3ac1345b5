//! Refuses requests with fields this contract does not know, in JSON and in binary, naming every one of them.
//!
//! A silently dropped field is a setting the caller believes in; see section 1.3 of the rules for calls in
//! `docs/errors.md`. Depth is bounded by the decoder, which runs on the same bytes afterwards.

use std::collections::HashMap;
use std::sync::LazyLock;

use buffa::Message as _;
use buffa_descriptor::generated::descriptor::{
    DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type as FieldType,
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
    /// The message type this field holds, if it holds one.
    message: Option<String>,
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

fn unknown_in_json(schema: &Schema, value: &serde_json::Value, at: &str, depth: usize, found: &mut Vec<Violation>) {
    let Some(object) = value.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    for (key, value) in object {
        let here = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let Some(field) = schema.fields.values().find(|f| f.json == *key || f.proto == *key) else {
            let mut known: Vec<&str> = schema.fields.values().map(|f| f.json.as_str()).collect();
            known.sort_unstable();
            found.push(Violation { field: here, problem: format!("is not a field; known are {}", known.join(", ")) });
            continue;
        };
        let Some(inner) = field.message.as_ref().and_then(|name| INDEX.messages.get(name)) else { continue };
        if inner.map_entry {
            let of_value = inner.fields.get(&2).and_then(|f| f.message.as_ref());
            if let (Some(schema), Some(entries)) = (of_value.and_then(|n| INDEX.messages.get(n)), value.as_object()) {
                for (key, value) in entries {
                    unknown_in_json(schema, value, &format!("{here}[{key}]"), depth + 1, found);
                }
            }
        } else if let Some(items) = value.as_array() {
            for (i, item) in items.iter().enumerate() {
                unknown_in_json(inner, item, &format!("{here}[{i}]"), depth + 1, found);
            }
        } else {
            unknown_in_json(inner, value, &here, depth + 1, found);
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

/// Every unknown field of a request to `path`; empty when there is none or the path is not of this contract.
pub fn unknown_fields(path: &str, bytes: &[u8], json: bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let Some(schema) = INDEX.inputs.get(path).and_then(|name| INDEX.messages.get(name)) else { return found };
    if json {
        if let Ok(value) = serde_json::from_slice(bytes) {
            unknown_in_json(schema, &value, "", 0, &mut found);
        }
    } else {
        unknown_in_binary(schema, bytes, "", 0, &mut found);
    }
    found
}

fn check(path: &str, bytes: &[u8], format: CodecFormat) -> Result<(), ConnectError> {
    let violations = unknown_fields(path, bytes, matches!(format, CodecFormat::Json));
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
        unknown_fields(path, bytes, json).into_iter().map(|v| v.field).collect()
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
