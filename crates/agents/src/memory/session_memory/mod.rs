//! Keeps conversations word for word and hands out the recent window.
//!
//! `sessions.db` holds every entry; older ones are put into a rolling summary in the background by `llm.fast`. Without a
//! model the window is cut and says `truncated`. Tokens are counted by the tokenizer of the model that serves
//! `llm.fast` when its engine answers in time; an entry that was not counted has 0 tokens and weighs a token per three
//! characters.
//!
//! Ended sessions wait in `sessions.db` for MemoryClient, which turns them into memories; `tandem_sessions_unremembered`
//! says how many wait.

mod logic;
mod serve;
mod summarise;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::gauge;
use serde::Deserialize;
use tandem_agent::{AgentDef, Ctx, Started, bind};
use tandem_contract::Service;
use tandem_contract::rpc::sessions;
use tandem_store::sessions::{Budget, Limits, SessionStore, SqliteSessions};
use tandem_types::{Fault, SessionId, UserId};
use tokio::sync::Notify;

use crate::opening::open;
use crate::tickets::Tickets;

const FILE: &str = "sessions.db";
const ROLE: &str = "llm.fast";
/// Ended sessions counted at most when it is said how many wait for the memory.
const COUNTED_UNREMEMBERED: u32 = 500;

/// SessionMemoryAgent.
pub const DEF: AgentDef = AgentDef {
    name: "SessionMemoryAgent",
    about: "Keeps conversations word for word and hands out the recent window.",
    provides: &[
        sessions::CREATE_SESSION.facts(),
        sessions::APPEND_TURN.facts(),
        sessions::AMEND_TURN.facts(),
        sessions::GET_TURN.facts(),
        sessions::GET_WINDOW.facts(),
        sessions::LIST_TURNS.facts(),
        sessions::SEARCH_TURNS.facts(),
        sessions::LIST_SESSIONS.facts(),
        sessions::END_SESSION.facts(),
        sessions::DELETE_SESSION.facts(),
    ],
    needs: &[],
    // Conversations are kept without MemoryClient too, so it does not gate the start.
    uses: &["MemoryClient", "ModelManagerSuite"],
    roles: &[],
    publishes: &[],
    required: true,
    start: |ctx| Box::pin(start(ctx)),
};

/// Settings in the fleet file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most tokens of a window, and what a window gets that asks for none.
    pub window_tokens: u32,
    /// Most entries of a window, and what a window gets that asks for none.
    pub window_items: u32,
    /// Seconds without an entry after which a session ends.
    pub idle_s: u64,
    /// Sessions that may be open; one more ends the one that was idle longest.
    pub open_sessions: u32,
    /// How long entries are kept.
    pub keep_days: Days,
    /// The same for single persons, by their id.
    pub keep_days_of: BTreeMap<UserId, Days>,
    /// Seconds between two looks for idle sessions and entries past their time.
    pub sweep_s: u64,
    /// Milliseconds a writer waits for the tokenizer at most.
    pub count_ms: u64,
    /// Most tokens of a summary.
    pub summary_tokens: u32,
    /// Seconds one summary may take.
    pub summary_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_tokens: 2_000,
            window_items: 20,
            idle_s: 3_600,
            open_sessions: 100,
            keep_days: Days::Number(30),
            keep_days_of: BTreeMap::new(),
            sweep_s: 300,
            count_ms: 20,
            summary_tokens: 200,
            summary_s: 120,
        }
    }
}

/// For how many days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Days {
    /// So many; 0 while the session is open.
    Number(u32),
    /// For ever, written `"unlimited"`.
    Word(Unlimited),
}

/// No limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlimited {
    /// `unlimited`.
    Unlimited,
}

impl Days {
    fn number(self) -> Option<u32> {
        match self {
            Self::Number(days) => Some(days),
            Self::Word(Unlimited::Unlimited) => None,
        }
    }
}

impl Settings {
    fn budget(&self) -> Budget {
        Budget { tokens: self.window_tokens, items: self.window_items }
    }

    fn limits(&self) -> Limits {
        Limits { open: self.open_sessions, idle: Duration::from_secs(self.idle_s), keep_days: self.keep_days.number() }
    }
}

/// The running agent.
struct SessionMemory {
    ctx: Ctx,
    settings: Settings,
    store: Arc<dyn SessionStore>,
    tickets: Tickets,
    /// Sessions that grew since their summary was last looked at.
    grown: Mutex<BTreeSet<(UserId, SessionId)>>,
    wake: Arc<Notify>,
}

async fn start(ctx: Ctx) -> Result<Started, Fault> {
    let settings: Settings = ctx.settings()?;
    let path = ctx.data_file(FILE);
    let limits = settings.limits();
    let store: Arc<dyn SessionStore> = Arc::new(open(move || SqliteSessions::open(path, limits)).await?);
    for (user, days) in &settings.keep_days_of {
        store.keep_days(user, days.number()).await?;
    }
    let sweep = Duration::from_secs(settings.sweep_s.max(1));
    let wake: Arc<Notify> = Arc::default();
    let agent = Arc::new(SessionMemory {
        tickets: Tickets::new(&ctx),
        ctx,
        settings,
        store: store.clone(),
        grown: Mutex::default(),
        wake: wake.clone(),
    });
    let service = Service::new()
        .unary(sessions::CREATE_SESSION, bind(&agent, SessionMemory::create_session))
        .unary(sessions::APPEND_TURN, bind(&agent, SessionMemory::append_turn))
        .unary(sessions::AMEND_TURN, bind(&agent, SessionMemory::amend_turn))
        .unary(sessions::GET_TURN, bind(&agent, SessionMemory::get_turn))
        .unary(sessions::GET_WINDOW, bind(&agent, SessionMemory::get_window))
        .unary(sessions::LIST_TURNS, bind(&agent, SessionMemory::list_turns))
        .unary(sessions::SEARCH_TURNS, bind(&agent, SessionMemory::search_turns))
        .unary(sessions::LIST_SESSIONS, bind(&agent, SessionMemory::list_sessions))
        .unary(sessions::END_SESSION, bind(&agent, SessionMemory::end_session))
        .unary(sessions::DELETE_SESSION, bind(&agent, SessionMemory::delete_session));
    let (sweeper, summariser, drained) = (agent.clone(), agent.clone(), agent);
    Ok(Started::serve(service)
        .reconcile("sweep", sweep, move || sweeper.clone().sweep())
        .reconcile_on("summarise", sweep, wake, move || summariser.clone().summarise())
        .store(store)
        .on_drain(move || {
            let agent = drained.clone();
            async move {
                agent.tickets.release_all().await;
                Ok(())
            }
        }))
}

impl SessionMemory {
    /// Ends idle sessions, erases what is past its time and says how many sessions are open.
    async fn sweep(self: Arc<Self>) -> Result<(), Fault> {
        let now = self.ctx.clock().now();
        let ended = self.store.sweep_idle(now).await?;
        let erased = self.store.sweep_retention(now).await?;
        if !ended.is_empty() || erased.entries > 0 {
            tracing::info!(ended = ended.len(), erased = erased.entries, "swept sessions");
        }
        gauge!("tandem_sessions_open").set(self.store.open_sessions().await? as f64);
        let waiting = self.store.to_remember(COUNTED_UNREMEMBERED).await?.len();
        gauge!("tandem_sessions_unremembered").set(waiting as f64);
        Ok(())
    }
}
