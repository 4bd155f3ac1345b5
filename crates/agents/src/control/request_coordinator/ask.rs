//! Reads a request and says everything that is wrong with it.

use std::collections::BTreeMap;

use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_types::{SessionId, UserId};

use super::queue::{Claim, Modality, Standing, Urgency};
use crate::fields::Fields;

/// Texts that may end an answer.
const STOPS: usize = 16;

/// What a request asks about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Something a person said or wrote in a session.
    Said(String),
    /// A conversation that the caller keeps itself.
    Messages(Vec<pb::ChatMessage>),
    /// Pictures.
    Images(Vec<String>),
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    pub(super) claim: Claim,
    pub(super) session: Option<SessionId>,
    pub(super) content: Content,
    pub(super) reply_language: String,
    pub(super) options: pb::GenerationOptions,
    pub(super) model: String,
    pub(super) channel: String,
}

/// Reads a request. `standings` says what each person is; who is not in it is a guest.
pub(super) fn read(
    fields: &mut Fields,
    request: pb::SubmitRequest,
    standings: &BTreeMap<String, Standing>,
) -> Option<Asked> {
    let user = fields.parse::<UserId>("user_id", &request.user_id);
    let session = fields.optional::<SessionId>("session_id", &request.session_id);
    let options = request.options.into_option().unwrap_or_default();
    read_options(fields, &options);
    let language = request.reply_language;
    let tag = language.is_empty()
        || (language.len() <= 35 && language.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    fields.require(tag, "reply_language", "is not a language tag such as `en`, `tl` or `taglish`");
    fields.require(request.model.len() <= 128, "model", "is longer than 128 characters");
    fields.require(request.channel.len() <= 32, "channel", "is longer than 32 characters");

    let given: Vec<&str> = [
        ("text", !request.text.is_empty()),
        ("transcript", !request.transcript.is_empty()),
        ("messages", !request.messages.is_empty()),
        ("image_ids", !request.image_ids.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    let (content, fits) = match given[..] {
        ["text"] => (Some(Content::Said(request.text)), Modality::Text),
        ["transcript"] => (Some(Content::Said(request.transcript)), Modality::Audio),
        ["messages"] => {
            read_messages(fields, &request.messages);
            fields.require(
                request.session_id.is_empty(),
                "session_id",
                "goes with `text` or `transcript`; the caller of `messages` keeps the conversation itself",
            );
            (Some(Content::Messages(request.messages)), Modality::Text)
        }
        ["image_ids"] => (Some(Content::Images(request.image_ids)), Modality::Vision),
        [] => {
            fields.wrong("text", "is missing: send exactly one of text, transcript, messages or image_ids");
            (None, Modality::Text)
        }
        [first, ..] => {
            let all = given.join(", ");
            fields.wrong(first, format!("came together with others ({all}): send exactly one of them"));
            (None, Modality::Text)
        }
    };
    if let Some(Content::Said(said)) = &content {
        fields.require(!said.trim().is_empty(), given[0], "is blank");
    }
    let modality = match request.modality.as_known() {
        Some(pb::Modality::MODALITY_UNSPECIFIED) => Some(fits),
        Some(pb::Modality::MODALITY_BACKGROUND) => Some(Modality::Background),
        Some(pb::Modality::MODALITY_AUDIO) => Some(Modality::Audio),
        Some(pb::Modality::MODALITY_TEXT) => Some(Modality::Text),
        Some(pb::Modality::MODALITY_VISION) => Some(Modality::Vision),
        None => None,
    };
    match modality {
        None => fields.wrong("modality", "is not known"),
        Some(Modality::Background) => {}
        Some(modality) if modality == fits || content.is_none() => {}
        Some(modality) => {
            fields.wrong("modality", format!("is {} but `{}` came: leave it out", modality.as_str(), given[0]));
        }
    }
    let urgency = match request.urgency.as_known() {
        Some(pb::Urgency::URGENCY_CRITICAL) => Some(Urgency::Critical),
        Some(pb::Urgency::URGENCY_HIGH) => Some(Urgency::High),
        Some(pb::Urgency::URGENCY_LOW) => Some(Urgency::Low),
        Some(pb::Urgency::URGENCY_UNSPECIFIED | pb::Urgency::URGENCY_NORMAL) => Some(Urgency::Normal),
        None => None,
    };
    fields.require(urgency.is_some(), "urgency", "is not known");
    let user = user?;
    let standing = standings.get(user.as_str()).copied().unwrap_or(Standing::Guest);
    Some(Asked {
        claim: Claim { user, modality: modality?, standing, urgency: urgency? },
        session: session?,
        content: content?,
        reply_language: language,
        options,
        model: request.model,
        channel: request.channel,
    })
}

fn read_options(fields: &mut Fields, options: &pb::GenerationOptions) {
    let within = |value: Option<f32>, most: f32| value.is_none_or(|v| (0.0..=most).contains(&v));
    fields.require(within(options.temperature, 2.0), "options.temperature", "is not between 0 and 2");
    fields.require(within(options.top_p, 1.0), "options.top_p", "is not between 0 and 1");
    fields.require(options.stop.len() <= STOPS, "options.stop", "has more than 16 texts");
    fields.require(options.stop.iter().all(|stop| !stop.is_empty()), "options.stop", "has an empty text");
}

fn read_messages(fields: &mut Fields, messages: &[pb::ChatMessage]) {
    for (n, message) in messages.iter().enumerate() {
        let known = matches!(message.role.as_str(), "system" | "user" | "assistant");
        fields.require(known, &format!("messages[{n}].role"), "is not `system`, `user` or `assistant`");
    }
    let any = messages.iter().any(|message| !message.content.trim().is_empty());
    fields.require(any, "messages", "are all blank");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> pb::SubmitRequest {
        pb::SubmitRequest { user_id: "ana".into(), ..Default::default() }
    }

    fn asked(request: pb::SubmitRequest) -> Result<Asked, Vec<String>> {
        let mut fields = Fields::default();
        let standings = [("ana".to_owned(), Standing::Owner)].into_iter().collect();
        let asked = read(&mut fields, request, &standings);
        fields.all(asked).map_err(|fault| fault.violations.into_iter().map(|v| v.field).collect())
    }

    fn message(role: &str, content: &str) -> pb::ChatMessage {
        pb::ChatMessage { role: role.into(), content: content.into(), ..Default::default() }
    }

    #[test]
    fn each_kind_of_request_has_its_modality() {
        let text = pb::SubmitRequest { text: "hi".into(), ..request() };
        let spoken = pb::SubmitRequest { transcript: "hi".into(), ..request() };
        let kept = pb::SubmitRequest { messages: vec![message("user", "hi")], ..request() };
        let seen = pb::SubmitRequest { image_ids: vec!["a".into()], ..request() };
        let idle = pb::SubmitRequest { modality: pb::Modality::MODALITY_BACKGROUND.into(), ..text.clone() };
        for (request, modality) in [
            (text, Modality::Text),
            (spoken, Modality::Audio),
            (kept, Modality::Text),
            (seen, Modality::Vision),
            (idle, Modality::Background),
        ] {
            let asked = asked(request).unwrap();
            assert_eq!((asked.claim.modality, asked.claim.standing), (modality, Standing::Owner));
        }
        let guest = pb::SubmitRequest { user_id: "ben".into(), text: "hi".into(), ..request() };
        assert_eq!(asked(guest).unwrap().claim.standing, Standing::Guest);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let options = pb::GenerationOptions {
            temperature: Some(3.0),
            top_p: Some(f32::NAN),
            stop: vec![String::new()],
            ..Default::default()
        };
        for (request, wrong) in [
            (request(), vec!["text"]),
            (pb::SubmitRequest { text: "a".into(), transcript: "b".into(), ..request() }, vec!["text"]),
            (pb::SubmitRequest { text: " ".into(), ..request() }, vec!["text"]),
            (
                pb::SubmitRequest {
                    user_id: String::new(),
                    session_id: "a b".into(),
                    reply_language: "en us".into(),
                    text: "hi".into(),
                    urgency: 9.into(),
                    modality: pb::Modality::MODALITY_AUDIO.into(),
                    options: options.into(),
                    ..Default::default()
                },
                vec![
                    "user_id",
                    "session_id",
                    "options.temperature",
                    "options.top_p",
                    "options.stop",
                    "reply_language",
                    "modality",
                    "urgency",
                ],
            ),
            (
                pb::SubmitRequest {
                    session_id: "s".into(),
                    messages: vec![message("tool", " "), message("", "")],
                    ..request()
                },
                vec!["messages[0].role", "messages[1].role", "messages", "session_id"],
            ),
        ] {
            assert_eq!(asked(request).unwrap_err(), wrong);
        }
    }
}
