//! Answers as programs for the OpenAI API expect them: one object, or a stream of chunks as server-sent events.

use serde_json::{Value, json};
use tandem_contract::pb::tandem::coordinator::v1::Final;

use super::errors::ApiError;

/// What every part of an answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// `chatcmpl-` and the turn's id.
    pub(crate) id: String,
    /// When the turn began, seconds since 1970.
    pub(crate) created: i64,
    /// The model: as asked for, until it is known who wrote.
    pub(crate) model: String,
    /// End the stream with a count of tokens.
    pub(crate) include_usage: bool,
}

/// Ends a stream that went well.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn usage(end: &Final) -> Value {
    end.usage.as_option().map_or(Value::Null, |usage| {
        json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        })
    })
}

fn finish_reason(end: &Final) -> &'static str {
    if end.finish_reason == "length" { "length" } else { "stop" }
}

/// A comment, which clients skip; keeps the line open while an answer is waited for.
pub(crate) fn comment(text: &str) -> String {
    format!(": {}\n\n", text.replace(['\r', '\n'], " "))
}

/// An error in the middle of a stream; nothing follows.
pub(crate) fn failure(error: &ApiError) -> String {
    event(&error.body())
}

impl Head {
    /// The model that wrote, once that is known.
    fn written_by(&self, end: &Final) -> Self {
        let writer = end.provenance.as_option().map(|p| p.model.as_str()).filter(|model| !model.is_empty());
        Self { model: writer.unwrap_or(&self.model).to_owned(), ..self.clone() }
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": null,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}],
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The first chunk: who speaks.
    pub(crate) fn opening(&self) -> String {
        event(&self.chunk(&json!({"role": "assistant", "content": "", "refusal": null}), None))
    }

    /// A chunk with text.
    pub(crate) fn piece(&self, text: &str) -> String {
        event(&self.chunk(&json!({"content": text}), None))
    }

    /// The last chunks: why it ended, the tokens if they were asked for, and the end of the stream.
    pub(crate) fn closing(&self, end: &Final) -> String {
        let head = self.written_by(end);
        let mut text = event(&head.chunk(&json!({}), Some(finish_reason(end))));
        if self.include_usage {
            let mut last = head.chunk(&json!({}), None);
            last["choices"] = json!([]);
            last["usage"] = usage(end);
            text += &event(&last);
        }
        text + DONE
    }

    /// The whole answer at once.
    pub(crate) fn completion(&self, end: &Final) -> Value {
        let head = self.written_by(end);
        json!({
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": null,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": end.text, "refusal": null},
                "logprobs": null,
                "finish_reason": finish_reason(end),
            }],
            "usage": usage(end),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_contract::pb::tandem::common::v1::{Provenance, TokenUsage};

    fn head(include_usage: bool) -> Head {
        Head { id: "chatcmpl-7f".into(), created: 1_000, model: "tandem".into(), include_usage }
    }

    fn end(finish_reason: &str) -> Final {
        let usage = TokenUsage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, ..Default::default() };
        Final {
            text: "Hi.".into(),
            finish_reason: finish_reason.into(),
            usage: usage.into(),
            provenance: Provenance { model: "smol".into(), ..Default::default() }.into(),
            ..Default::default()
        }
    }

    /// The events of a stream; anything that is no event fails the test.
    fn events(text: &str) -> Vec<Value> {
        let events = text.strip_suffix("\n\n").expect("ends after an event").split("\n\n");
        events.map(|e| serde_json::from_str(e.strip_prefix("data: ").expect("is an event")).expect("is JSON")).collect()
    }

    #[test]
    fn the_first_chunk_says_who_speaks() {
        assert_eq!(
            events(&head(false).opening()),
            [json!({"id": "chatcmpl-7f", "object": "chat.completion.chunk", "created": 1000, "model": "tandem",
                "system_fingerprint": null, "choices": [{"index": 0, "logprobs": null, "finish_reason": null,
                    "delta": {"role": "assistant", "content": "", "refusal": null}}]})]
        );
    }

    #[test]
    fn text_may_hold_anything() {
        let text = "a\n\ndata: [DONE]\r\n\u{2028}\"é";
        let piece = head(false).piece(text);
        assert_eq!(piece.matches('\n').count(), 2, "one line and its end");
        assert_eq!(events(&piece)[0]["choices"][0]["delta"], json!({"content": text}));
        assert_eq!(comment("queued\r\nx"), ": queued  x\n\n");
    }

    #[test]
    fn usage_comes_last_and_only_when_asked_for() {
        let closing = head(false).closing(&end("length"));
        let chunks = events(closing.strip_suffix(DONE).unwrap());
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0]["choices"][0]["finish_reason"], "length");
        assert!(chunks[0].get("usage").is_none());

        let closing = head(true).closing(&end("stop"));
        let chunks = events(closing.strip_suffix(DONE).unwrap());
        assert_eq!((&chunks[0]["usage"], &chunks[0]["choices"][0]["delta"]), (&Value::Null, &json!({})));
        assert_eq!(chunks[1]["choices"], json!([]));
        assert_eq!(chunks[1]["model"], "smol");
        assert_eq!(
            chunks[1]["usage"],
            json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}})
        );
    }

    #[test]
    fn the_whole_answer_has_every_field_of_theirs() {
        assert_eq!(
            head(false).completion(&end("stop")),
            json!({"id": "chatcmpl-7f", "object": "chat.completion", "created": 1000, "model": "smol",
                "system_fingerprint": null,
                "choices": [{"index": 0, "logprobs": null, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "Hi.", "refusal": null}}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
                    "prompt_tokens_details": {"cached_tokens": 4}}})
        );
        assert_eq!(head(false).completion(&Final::default())["usage"], Value::Null);
    }
}
