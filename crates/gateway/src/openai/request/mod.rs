//! Reads the body of a chat completion as programs send it, and says everything that is wrong with it at once.
//!
//! Parameters fall into three groups: those that are carried out, those that change nothing about the answer
//! ([`IGNORED`]), and those that would change it and cannot be carried out ([`neutral`]), which are refused unless they
//! say what happens anyway. Anything else is not known and refused too: a dropped setting is one the caller believes in.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use tandem_contract::pb::tandem::coordinator::v1::{ChatMessage, GenerationOptions};

use super::errors::ApiError;

/// Parameters for the keeping, billing and routing of requests at a large provider; the answer is the same with and
/// without.
pub(crate) const IGNORED: &[&str] = &[
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Most texts that may end the answer.
const MOST_STOPS: usize = 16;

/// Whether a parameter that cannot be carried out says what happens anyway; none when it is not of this kind.
fn neutral(name: &str, value: &Value) -> Option<bool> {
    let is_empty = || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    let is = |texts: &[&str]| value.as_str().is_some_and(|text| texts.contains(&text));
    Some(match name {
        "frequency_penalty" | "presence_penalty" | "top_logprobs" => value.as_f64() == Some(0.0),
        "logprobs" => value == &Value::Bool(false),
        "tools" | "functions" | "logit_bias" => is_empty(),
        "tool_choice" | "function_call" => is(&["none", "auto"]),
        "response_format" => value.get("type").and_then(Value::as_str) == Some("text"),
        "modalities" => value.as_array().is_some_and(|kinds| kinds.len() == 1 && kinds[0] == "text"),
        "reasoning_effort" => is(&["none"]),
        "verbosity" => is(&["medium"]),
        "audio" | "prediction" | "web_search_options" => false,
        _ => return None,
    })
}

/// A chat completion that can be carried out.
#[derive(Debug, Default)]
pub(crate) struct ChatRequest {
    /// Name of a model or role.
    pub(crate) model: String,
    /// The conversation; roles are `system`, `user` and `assistant`.
    pub(crate) messages: Vec<ChatMessage>,
    /// How tokens are chosen.
    pub(crate) options: GenerationOptions,
    /// Answer piece by piece.
    pub(crate) stream: bool,
    /// End the stream with a count of tokens.
    pub(crate) include_usage: bool,
}

struct Wrong {
    param: String,
    code: &'static str,
    problem: String,
}

#[derive(Default)]
struct Reading {
    wrong: Vec<Wrong>,
}

impl Reading {
    fn wrong(&mut self, param: impl Into<String>, code: &'static str, problem: impl Into<String>) {
        self.wrong.push(Wrong { param: param.into(), code, problem: problem.into() });
    }

    fn flag(&mut self, param: &str, value: &Value) -> bool {
        value.as_bool().unwrap_or_else(|| {
            self.wrong(param, "invalid_type", "is true or false");
            false
        })
    }

    fn fraction(&mut self, param: &str, value: &Value, most: f64) -> Option<f32> {
        match value.as_f64() {
            #[allow(clippy::cast_possible_truncation)] // a sampling setting needs no more than seven digits
            Some(number) if (0.0..=most).contains(&number) => return Some(number as f32),
            Some(_) => self.wrong(param, "invalid_value", format!("is between 0 and {most}")),
            None => self.wrong(param, "invalid_type", format!("is a number between 0 and {most}")),
        }
        None
    }

    fn limit(&mut self, param: &str, value: &Value) -> u32 {
        match value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0) {
            Some(number) => number,
            None => {
                self.wrong(param, "invalid_value", "is a whole number from 1 on");
                0
            }
        }
    }

    /// Negative seeds are seeds too: each has a number of its own.
    fn seed(&mut self, value: &Value) -> Option<u64> {
        let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        if seed.is_none() {
            self.wrong("seed", "invalid_type", "is a whole number");
        }
        seed
    }

    fn stops(&mut self, value: &Value) -> Vec<String> {
        let list = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(list) => list,
            _ => {
                self.wrong("stop", "invalid_type", "is a text or a list of texts");
                return Vec::new();
            }
        };
        if list.len() > MOST_STOPS {
            self.wrong("stop", "invalid_value", format!("has {} texts; at most {MOST_STOPS}", list.len()));
        }
        let texts: Vec<String> =
            list.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect();
        if texts.len() < list.len() {
            self.wrong("stop", "invalid_value", "holds something that is not a text of at least one character");
        }
        texts
    }

    fn stream_options(&mut self, value: &Value) -> bool {
        let Some(options) = value.as_object() else {
            self.wrong("stream_options", "invalid_type", "is an object");
            return false;
        };
        let mut include_usage = false;
        for (name, value) in options {
            match name.as_str() {
                "include_usage" if !value.is_null() => {
                    include_usage = self.flag("stream_options.include_usage", value);
                }
                // Padding against eavesdroppers on the line, which is the caller's own machine or network.
                "include_usage" | "include_obfuscation" => {}
                _ => self.wrong(format!("stream_options.{name}"), "unknown_parameter", "is not known"),
            }
        }
        include_usage
    }

    fn text(&mut self, at: &str, content: Option<&Value>) -> String {
        let parts = match content {
            Some(Value::String(text)) => return text.clone(),
            Some(Value::Array(parts)) if !parts.is_empty() => parts,
            _ => {
                self.wrong(at, "invalid_type", "is a text or a list of text parts");
                return String::new();
            }
        };
        let mut texts = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("nothing");
            match part.get("text").and_then(Value::as_str) {
                Some(text) if kind == "text" => texts.push(text),
                _ if kind == "text" => self.wrong(format!("{at}[{i}].text"), "invalid_type", "is a text"),
                _ => {
                    let problem = format!("is of type {kind}; only text is understood here");
                    self.wrong(format!("{at}[{i}].type"), "unsupported_value", problem);
                }
            }
        }
        texts.join("\n")
    }

    fn message(&mut self, at: &str, message: &Value) -> ChatMessage {
        let Some(fields) = message.as_object() else {
            self.wrong(at, "invalid_type", "is an object with role and content");
            return ChatMessage::default();
        };
        let role = match fields.get("role").and_then(Value::as_str) {
            Some("developer") => "system",
            Some(role @ ("system" | "user" | "assistant")) => role,
            Some(role @ ("tool" | "function")) => {
                let problem = format!("is {role}; this server calls no tools for its callers");
                self.wrong(format!("{at}.role"), "unsupported_value", problem);
                ""
            }
            _ => {
                self.wrong(format!("{at}.role"), "invalid_value", "is one of system, developer, user, assistant");
                ""
            }
        };
        for (name, value) in fields {
            let said = !value.is_null() && !value.as_array().is_some_and(Vec::is_empty);
            match name.as_str() {
                "role" | "content" => {}
                // Programs send back what they got as it is, with these left empty.
                "annotations" | "audio" | "function_call" | "name" | "refusal" | "tool_call_id" | "tool_calls" => {
                    if said {
                        let problem = "cannot be carried out here; put what matters into the content";
                        self.wrong(format!("{at}.{name}"), "unsupported_parameter", problem);
                    }
                }
                _ => self.wrong(format!("{at}.{name}"), "unknown_parameter", "is not known"),
            }
        }
        let content = self.text(&format!("{at}.content"), fields.get("content"));
        ChatMessage { role: role.to_owned(), content, ..Default::default() }
    }

    fn messages(&mut self, value: &Value) -> Vec<ChatMessage> {
        match value.as_array() {
            Some(list) if !list.is_empty() => {
                list.iter().enumerate().map(|(i, message)| self.message(&format!("messages[{i}]"), message)).collect()
            }
            _ => {
                self.wrong("messages", "invalid_type", "is a list with at least one message");
                Vec::new()
            }
        }
    }

    fn request(&mut self, fields: &Map<String, Value>) -> ChatRequest {
        let mut request = ChatRequest::default();
        let mut limits = Vec::new();
        let mut has_stream_options = false;
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "model" => match value.as_str() {
                    Some(model) => model.clone_into(&mut request.model),
                    None => self.wrong("model", "invalid_type", "is the name of a model"),
                },
                "messages" => request.messages = self.messages(value),
                "stream" => request.stream = self.flag("stream", value),
                "stream_options" => {
                    has_stream_options = true;
                    request.include_usage = self.stream_options(value);
                }
                "max_tokens" | "max_completion_tokens" => limits.push(self.limit(name, value)),
                "temperature" => request.options.temperature = self.fraction(name, value, 2.0),
                "top_p" => request.options.top_p = self.fraction(name, value, 1.0),
                "seed" => request.options.seed = self.seed(value),
                "stop" => request.options.stop = self.stops(value),
                "n" => {
                    if value.as_u64() != Some(1) {
                        self.wrong("n", "unsupported_value", "is 1; ask again for another answer");
                    }
                }
                _ if IGNORED.contains(&name.as_str()) => {}
                _ => match neutral(name, value) {
                    Some(true) => {}
                    Some(false) => {
                        self.wrong(name, "unsupported_parameter", "cannot be carried out here; leave it out")
                    }
                    None => self.wrong(name, "unknown_parameter", "is not known; leave it out"),
                },
            }
        }
        for name in ["model", "messages"] {
            if fields.get(name).is_none_or(Value::is_null) {
                self.wrong(name, "missing_required_parameter", "is missing");
            }
        }
        if has_stream_options && !request.stream {
            self.wrong("stream_options", "invalid_value", "goes with `stream: true` only");
        }
        if limits.windows(2).any(|pair| pair[0] != pair[1]) {
            self.wrong("max_tokens", "invalid_value", "differs from max_completion_tokens; send one of them");
        }
        request.options.max_tokens = limits.first().copied().unwrap_or_default();
        request
    }
}

/// Reads a body. The error names every wrong parameter; its `param` and `code` are those of the first.
pub(crate) fn read(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::invalid(None, None, format!("the body is not JSON: {e}")))?;
    let Some(fields) = value.as_object() else {
        return Err(ApiError::invalid(None, None, "the body is a JSON object with model and messages"));
    };
    let mut reading = Reading::default();
    let request = reading.request(fields);
    match reading.wrong.first() {
        None => Ok(request),
        Some(first) => {
            let all: Vec<String> = reading.wrong.iter().map(|w| format!("'{}' {}", w.param, w.problem)).collect();
            Err(ApiError::invalid(Some(first.code), Some(&first.param), all.join("; ")))
        }
    }
}
