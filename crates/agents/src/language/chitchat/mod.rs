//! Makes conversation: short, warm, in the persona and language of the moment.
//!
//! One prompt file per language holds the rules and the persona; the last ten messages and the known facts follow. The
//! model is `llm.fast`, else `llm.overflow`, else `llm.tiny`, and the reply says which. A conversation that the caller
//! keeps itself (`messages`) goes to the model as it is, without persona, and a prompt that is too long for it is refused
//! by the engine; in a session the oldest messages give way instead and the outcome says how many.

mod answer;
mod logic;
mod record;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, bind};
use tandem_contract::pb::tandem::dialogue::v1::{DescribeRequest, DescribeResponse, HandleRequest, Message as Said};
use tandem_contract::pb::tandem::model::v1::{ListModelsRequest, Message, Ticket};
use tandem_contract::rpc::{dialogue, models};
use tandem_contract::{Call, Service};
use tandem_types::{Fault, reason};
use tokio::sync::Notify;

use crate::language::tongue::Tongue;
use crate::tickets::{Tickets, Want};

/// The role asked for, then those that stand in for it.
const ROLES: [&str; 3] = ["llm.fast", "llm.overflow", "llm.tiny"];

/// ChitchatAgent.
pub const DEF: AgentDef = AgentDef {
    name: "ChitchatAgent",
    about: "Makes conversation: short, warm, in the persona and language of the moment.",
    provides: &[dialogue::HANDLE.facts(), dialogue::DESCRIBE.facts()],
    needs: &["ModelManagerSuite"],
    uses: &["SessionMemoryAgent", "DynamicIdentityAgent", "ContextManager", "EmotionEngine"],
    roles: &[ROLES[0]],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most tokens of an answer in a session that asks for no other number.
    pub max_tokens: u32,
    /// Temperature of an answer that asks for no other.
    pub temperature: f32,
    /// Seconds to the first token of an answer in a session.
    pub first_token_s: f64,
    /// Seconds a whole answer in a session may take.
    pub whole_s: f64,
    /// Longest silence in seconds, the one before the first token included, where the caller keeps the conversation and
    /// brings prompts of any length.
    pub silence_s: f64,
    /// Seconds between two looks whether there is a model.
    pub look_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_tokens: 300, temperature: 0.7, first_token_s: 5.0, whole_s: 30.0, silence_s: 60.0, look_s: 5.0 }
    }
}

/// What a model is told after a conversation without known facts, its last message by the person: for whoever tries a
/// model as this agent uses it.
pub(crate) fn prompt(conversation: Vec<Message>) -> Vec<Message> {
    let said = |message: Message| Said { role: message.role, content: message.content, ..Default::default() };
    let mut history: Vec<Said> = conversation.into_iter().map(said).collect();
    let text = history.pop().map(|last| last.content).unwrap_or_default();
    let language = logic::reply_language("", &text, &history);
    logic::Prompt::build(&language, &HandleRequest { text, ..Default::default() }, &history).messages
}

/// The running agent.
struct Chitchat {
    ctx: Ctx,
    settings: Settings,
    tickets: Tickets,
    uses: record::Uses,
    /// Wakes the look for a model.
    look: Arc<Notify>,
    /// The model that serves now, and the languages it declares.
    spoken: Mutex<(String, Vec<String>)>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let period = Duration::from_secs_f64(settings.look_s.max(0.1));
    let look: Arc<Notify> = Arc::default();
    let agent = Arc::new(Chitchat {
        tickets: Tickets::new(&ctx),
        uses: record::Uses::start(&ctx),
        ctx,
        settings,
        look: look.clone(),
        spoken: Mutex::default(),
    });
    agent.look().await;
    let service = Service::new()
        .server_stream(dialogue::HANDLE, bind(&agent, Chitchat::handle))
        .unary(dialogue::DESCRIBE, bind(&agent, Chitchat::describe));
    let (looking, told, drained) = (agent.clone(), agent.clone(), agent);
    Ok(Started::serve(service)
        .reconcile_on("model", period, look, move || {
            let agent = looking.clone();
            async move {
                agent.look().await;
                Ok(())
            }
        })
        .on("model.changed", move |_event| {
            let agent = told.clone();
            async move {
                agent.tickets.forget_all();
                agent.look.notify_one();
                Ok(())
            }
        })
        .on_drain(move || {
            let agent = drained.clone();
            async move {
                agent.tickets.release_all().await;
                Ok(())
            }
        }))
}

impl Chitchat {
    async fn describe(self: Arc<Self>, _call: Call, _request: DescribeRequest) -> Result<DescribeResponse, Fault> {
        let mut languages: Vec<String> =
            [Tongue::En, Tongue::Tl, Tongue::Taglish].map(|tongue| tongue.as_str().to_owned()).into();
        let spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        languages.extend(spoken.into_iter().filter(|tag| Tongue::of_tag(tag).is_none()));
        let slots = ROLES.iter().find_map(|role| self.tickets.at_hand(role)).map_or(0, |ticket| ticket.slots);
        Ok(DescribeResponse {
            agent: self.ctx.id().to_string(),
            intents: vec!["chat".into(), "unknown".into()],
            languages,
            capability: [("chat".to_owned(), 0.9), ("unknown".to_owned(), 0.6)].into_iter().collect(),
            side_effects: false,
            role: ROLES[0].into(),
            parallel: slots,
            ..Default::default()
        })
    }

    /// Looks whether there is a model and says so in health; keeps a ticket at hand when there is.
    async fn look(&self) {
        let mut first: Option<Fault> = None;
        for role in ROLES {
            let want = Want { role, priority: 10, ..Want::default() };
            match self.tickets.lend(want, &self.ctx.call()).await {
                Ok(ticket) => {
                    self.learn_languages(&ticket).await;
                    match first {
                        None => self.ctx.health().ready(),
                        Some(fault) => {
                            self.ctx.health().degraded(format!("{role} stands in for {}: {}", ROLES[0], fault.message));
                        }
                    }
                    return;
                }
                Err(fault) => first = first.or(Some(fault)),
            }
        }
        let cause = match first {
            Some(fault) if fault.reason == reason::NO_MODEL => fault.message,
            Some(fault) => format!("no ticket for {}: {}", ROLES[0], fault.message),
            None => String::new(),
        };
        self.ctx.health().unavailable(cause);
    }

    /// Asks once per model which languages it declares; without an answer the three served everywhere stay.
    async fn learn_languages(&self, ticket: &Ticket) {
        if self.spoken.lock().unwrap_or_else(PoisonError::into_inner).0 == ticket.model {
            return;
        }
        let known = self.ctx.peers().unary(models::LIST_MODELS, ListModelsRequest::default(), &self.ctx.call()).await;
        let Ok(known) = known else { return };
        let languages = known.models.into_iter().find(|model| model.name == ticket.model).map(|model| model.languages);
        *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) =
            (ticket.model.clone(), languages.unwrap_or_default());
    }
}
