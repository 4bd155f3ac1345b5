//! Wire forms, and what a summary is asked with.

use tandem_contract::pb::tandem::model::v1::Message;
use tandem_contract::pb::tandem::session::v1 as pb;
use tandem_store::sessions::{Entry, Session, Summary};
use tandem_types::TurnId;

const SUMMARY_PROMPT: &str = include_str!("summary.prompt.md");
/// Characters that a token has at least, on average, in the languages served; the estimate of `sessions.db` too.
const CHARS_PER_TOKEN: usize = 3;

/// A session on the wire.
pub(super) fn session(session: Session) -> pb::Session {
    pb::Session {
        session_id: session.id.into(),
        user_id: session.user.into(),
        channel: session.channel,
        language: session.language,
        title: session.title,
        created_us: session.created.micros(),
        last_us: session.last.micros(),
        ended_us: session.ended.map_or(0, tandem_types::Timestamp::micros),
        turns: u32::try_from(session.entries).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

/// An entry on the wire.
pub(super) fn turn(entry: Entry) -> pb::Turn {
    // On the wire no words and no amendment look alike. Of a reply that was interrupted before its first word nothing
    // was spoken, so a reader must find nothing in either field.
    let unspoken = entry.amended.as_ref().is_some_and(String::is_empty);
    pb::Turn {
        number: entry.number,
        turn_id: entry.said.turn.to_string(),
        role: entry.said.speaker.as_str().to_owned(),
        text: if unspoken { String::new() } else { entry.said.text },
        language: entry.said.language,
        handler: entry.said.handler,
        source_json: entry.said.source,
        at_us: entry.at.micros(),
        tokens: entry.said.tokens,
        amended_text: entry.amended.unwrap_or_default(),
        spans_json: entry.said.spans,
        ..Default::default()
    }
}

/// A conversation that asks for a summary, and how far that summary will reach.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    /// For the model.
    pub(super) messages: Vec<Message>,
    /// Number of the last entry covered.
    pub(super) through: u64,
    /// Exchanges covered, those of the former summary included.
    pub(super) turns: Vec<TurnId>,
}

/// Asks for the summary of what `former` covers and of as many of `entries`, oldest first, as fit `tokens`; of an entry
/// that is too long alone, its beginning. None when there is no entry.
pub(super) fn ask(former: Option<&Summary>, entries: &[Entry], tokens: u32) -> Option<Asked> {
    let last = entries.first()?;
    let mut room = (tokens as usize * CHARS_PER_TOKEN).saturating_sub(SUMMARY_PROMPT.len());
    let mut text = String::new();
    if let Some(former) = former {
        text = format!("Summary so far:\n{}\n\n", former.text.trim());
    }
    text += "Conversation:\n";
    room = room.saturating_sub(text.len());
    let mut turns = former.map(|summary| summary.turns.clone()).unwrap_or_default();
    let mut through = last.number;
    for (n, entry) in entries.iter().enumerate() {
        let line = format!("{}: {}\n", entry.said.speaker, entry.words());
        if n > 0 && line.len() > room {
            break;
        }
        let fits = line.len().min(room.max(CHARS_PER_TOKEN));
        text += &line[..line.floor_char_boundary(fits)];
        room = room.saturating_sub(line.len());
        through = entry.number;
        if !turns.contains(&entry.said.turn) {
            turns.push(entry.said.turn);
        }
    }
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.trim_end().to_owned(),
        ..Default::default()
    };
    Some(Asked { messages: vec![message("system", SUMMARY_PROMPT), message("user", &text)], through, turns })
}
