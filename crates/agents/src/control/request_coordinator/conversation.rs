//! What the session has heard, and telling it what was said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_contract::Call;
use tandem_contract::pb::tandem::common::v1::Provenance;
use tandem_contract::pb::tandem::dialogue::v1::{ContextItem, Message};
use tandem_contract::pb::tandem::session::v1::{
    AppendTurnRequest, CreateSessionRequest, GetTurnRequest, GetWindowRequest, Turn as Entry,
};
use tandem_contract::rpc::sessions;
use tandem_types::{AgentId, Code, Fault, SessionId};

use super::Coordinator;
use super::turn::Turn;

/// The agent that keeps conversations, as it is named where it is missing.
pub(super) const KEEPER: &str = "SessionMemoryAgent";

/// What a session has heard before.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Oldest first.
    pub(super) history: Vec<Message>,
    /// What came before, in short.
    pub(super) summary: Option<ContextItem>,
}

/// What is appended to a session for one turn; each has an idempotency key of its own, made of the turn's id.
#[derive(Clone, Copy)]
enum Write {
    Session = 1,
    Question = 2,
    Answer = 3,
}

fn key(turn: &Turn, write: Write) -> Vec<u8> {
    let mut key = turn.known.id.0.to_vec();
    key[15] ^= write as u8;
    key
}

/// Whether the session itself, and not its keeper, is the problem.
pub(super) fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.code, Code::FailedPrecondition | Code::NotFound | Code::Conflict | Code::InvalidArgument)
}

impl Coordinator {
    /// Who keeps conversations.
    fn keeper(&self) -> Option<AgentId> {
        self.ctx.peers().providers(sessions::GET_WINDOW.path()).into_iter().next().map(|provider| provider.agent)
    }

    fn session_call(&self, turn: &Turn) -> Call {
        turn.call().within(Duration::from_millis(self.settings.session_ms), Instant::now())
    }

    /// What the session has heard before this turn. A session that does not exist yet has heard nothing.
    pub(super) async fn heard_before(&self, turn: &Turn, session: &SessionId) -> Heard {
        if !turn.known.named_session {
            return Heard::default();
        }
        let begun = Instant::now();
        let request = GetWindowRequest {
            user_id: turn.known.asked.claim.user.to_string(),
            session_id: session.to_string(),
            ..Default::default()
        };
        let window = self.ctx.peers().unary(sessions::GET_WINDOW, request, &self.session_call(turn)).await;
        turn.timing("window", begun.elapsed(), self.keeper().as_ref());
        let window = match window {
            Ok(window) => window,
            Err(fault) if is_refusal(&fault) => return Heard::default(),
            Err(fault) => {
                turn.missing(KEEPER, &format!("the conversation so far ({})", fault.reason));
                return Heard::default();
            }
        };
        let this = turn.known.id.to_string();
        let history = window.turns.into_iter().filter(|entry| entry.turn_id != this).map(|entry| Message {
            role: entry.role,
            content: if entry.amended_text.is_empty() { entry.text } else { entry.amended_text },
            ..Default::default()
        });
        let summary = (!window.summary.is_empty()).then(|| ContextItem {
            id: format!("session:{session}"),
            kind: "summary".into(),
            text: window.summary,
            ..Default::default()
        });
        Heard { history: history.collect(), summary }
    }

    /// Keeps what the person said, in a session that is begun when there is none of that name.
    pub(super) async fn keep_question(self: Arc<Self>, turn: Arc<Turn>, said: String) -> Result<(), Fault> {
        let Some(session) = &turn.known.session else { return Ok(()) };
        // What is told to a session before the request is on disk would stay there if it never gets there.
        match turn.accepted.clone().await {
            Some(Ok(accepted)) if !accepted.repeated => {}
            _ => return Ok(()),
        }
        let begun = Instant::now();
        let entry = Entry {
            role: "user".into(),
            text: said,
            language: turn.known.asked.reply_language.clone(),
            ..self.entry(&turn)
        };
        let mut kept = Err(Fault::not_found("not begun"));
        if turn.known.named_session {
            kept = self.append(&turn, session, Write::Question, entry.clone()).await;
        }
        // The session named may be new, and one that nobody named always is.
        if matches!(&kept, Err(fault) if fault.code == Code::NotFound) {
            kept = match self.begin_session(&turn, session).await {
                Ok(()) => self.append(&turn, session, Write::Question, entry).await,
                Err(fault) => Err(fault),
            };
        }
        turn.timing("remember", begun.elapsed(), self.keeper().as_ref());
        if let Err(fault) = &kept {
            turn.missing(KEEPER, &format!("this turn is not remembered ({})", fault.reason));
        }
        kept
    }

    /// Keeps what was answered, whole or as far as it came.
    pub(super) async fn keep_answer(&self, turn: &Turn, text: &str, from: Option<&Provenance>, tokens: u32) {
        let Some(session) = turn.known.session.as_ref().filter(|_| !text.is_empty()) else { return };
        let handler = turn.progress().handler.as_ref().map(ToString::to_string).unwrap_or_default();
        let entry = Entry {
            role: "assistant".into(),
            text: text.to_owned(),
            language: from.map(|from| from.language.clone()).unwrap_or_default(),
            handler,
            source_json: from.and_then(|from| serde_json::to_string(from).ok()).unwrap_or_default(),
            tokens,
            ..self.entry(turn)
        };
        if let Err(fault) = self.append(turn, session, Write::Answer, entry).await {
            turn.missing(KEEPER, &format!("this answer is not remembered ({})", fault.reason));
        }
    }

    /// The answer that a former process kept for this turn before it could end it.
    pub(super) async fn kept_answer(&self, turn: &Turn) -> Option<Entry> {
        turn.known.session.as_ref()?;
        let request = GetTurnRequest {
            user_id: turn.known.asked.claim.user.to_string(),
            turn_id: turn.known.id.to_string(),
            ..Default::default()
        };
        let kept = self.ctx.peers().unary(sessions::GET_TURN, request, &self.session_call(turn)).await.ok()?;
        kept.turns.into_iter().find(|entry| entry.role == "assistant")
    }

    fn entry(&self, turn: &Turn) -> Entry {
        Entry { turn_id: turn.known.id.to_string(), ..Default::default() }
    }

    async fn append(&self, turn: &Turn, session: &SessionId, write: Write, entry: Entry) -> Result<(), Fault> {
        let request = AppendTurnRequest {
            idempotency_key: key(turn, write),
            user_id: turn.known.asked.claim.user.to_string(),
            session_id: session.to_string(),
            turn: entry.into(),
            ..Default::default()
        };
        // Keeping what was said must not fail because the turn's own time is over.
        let call = Call { deadline: None, ..turn.call() }
            .within(Duration::from_millis(self.settings.session_ms), Instant::now());
        self.ctx.peers().unary(sessions::APPEND_TURN, request, &call).await.map(drop)
    }

    async fn begin_session(&self, turn: &Turn, session: &SessionId) -> Result<(), Fault> {
        let request = CreateSessionRequest {
            idempotency_key: key(turn, Write::Session),
            user_id: turn.known.asked.claim.user.to_string(),
            channel: turn.known.asked.channel.clone(),
            language: turn.known.asked.reply_language.clone(),
            session_id: session.to_string(),
            ..Default::default()
        };
        let begun = self.ctx.peers().unary(sessions::CREATE_SESSION, request, &self.session_call(turn)).await;
        begun.map(drop).map_err(|fault| match fault.code {
            // Whose it is, is nobody else's business.
            Code::Conflict => Fault::not_found(format!("this person has no session {session}")),
            _ => fault,
        })
    }
}
