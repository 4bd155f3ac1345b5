//! Leave to use a model, asked of ModelManagerSuite and kept while it is good.
//!
//! While ModelManagerSuite is away the last ticket of a role stands in for a new one for a day: the engine needs nobody to
//! go on, and whoever has lost it hears so from the call itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tandem_agent::Ctx;
use tandem_contract::pb::tandem::model::v1::{AcquireRequest, ReleaseRequest, Ticket};
use tandem_contract::rpc::models;
use tandem_contract::{Call, Client};
use tandem_types::{Fault, Timestamp, reason};

/// A ticket that ends sooner than this is not begun with.
const SPARE: Duration = Duration::from_secs(30);
/// Languages come from people, and so many tickets are enough for all of a house.
const MOST: usize = 64;
/// The last ticket stands so long after its end while nobody gives new ones.
const STANDS: Duration = Duration::from_hours(24);

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Want<'a> {
    /// The role.
    pub(crate) role: &'a str,
    /// Language of the answer.
    pub(crate) language: &'a str,
    /// The conversation; empty for none.
    pub(crate) conversation: &'a str,
    /// Priority of the turn, 1 first.
    pub(crate) priority: u32,
    /// Longest wait for a model that is loading.
    pub(crate) max_wait: Duration,
}

impl Want<'_> {
    /// Where its ticket is kept: by itself when the ticket is for one conversation only.
    fn key(&self, one_conversation: bool) -> Key {
        let conversation = one_conversation.then(|| self.conversation.to_owned());
        (self.role.to_owned(), self.language.to_owned(), conversation)
    }
}

/// Keeps one ticket per role and language, and per conversation where those get different adapters, which saves a call
/// per answer.
pub(crate) struct Tickets {
    ctx: Ctx,
    kept: Mutex<Kept>,
}

/// Role, language, and the conversation where the ticket is for no other.
type Key = (String, String, Option<String>);
type Kept = HashMap<Key, Ticket>;

impl Tickets {
    /// Holds no ticket yet.
    pub(crate) fn new(ctx: &Ctx) -> Self {
        Self { ctx: ctx.clone(), kept: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // The map is whole after each single operation, so a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket at hand for a role, for answers in whichever language, if there is a good one; asks nobody.
    pub(crate) fn at_hand(&self, role: &str) -> Option<Ticket> {
        let now = self.ctx.clock().now();
        self.lock().iter().find(|((of, ..), ticket)| of == role && good(ticket, now)).map(|(_, ticket)| ticket.clone())
    }

    /// The ticket at hand for a role, language and conversation, if it is still good; asks nobody.
    pub(crate) fn at_hand_for(&self, want: Want<'_>) -> Option<Ticket> {
        let now = self.ctx.clock().now();
        let kept = self.lock();
        let ticket = kept.get(&want.key(true)).or_else(|| kept.get(&want.key(false)));
        ticket.filter(|ticket| good(ticket, now)).cloned()
    }

    /// The ticket at hand for a role and language, or a new one.
    ///
    /// # Errors
    /// What ModelManagerSuite said, for example `no_model` or `model_loading`.
    pub(crate) async fn lend(&self, want: Want<'_>, call: &Call) -> Result<Ticket, Fault> {
        match self.at_hand_for(want) {
            Some(ticket) => Ok(ticket),
            None => self.acquire(want, call).await,
        }
    }

    /// A new ticket, in the place of the one at hand.
    ///
    /// # Errors
    /// As [`Tickets::lend`].
    pub(crate) async fn acquire(&self, want: Want<'_>, call: &Call) -> Result<Ticket, Fault> {
        let request = AcquireRequest {
            role: want.role.to_owned(),
            language: want.language.to_owned(),
            priority: want.priority,
            max_wait_ms: u32::try_from(want.max_wait.as_millis()).unwrap_or(u32::MAX),
            holder: self.ctx.id().to_string(),
            session_key: want.conversation.to_owned(),
            ..Default::default()
        };
        // The manager's own answer that the wait is over says more than a deadline does, so it gets the time to give it.
        let call = call.clone().within(want.max_wait + Duration::from_secs(2), Instant::now());
        let response = match self.ctx.peers().unary(models::ACQUIRE, request, &call).await {
            Ok(response) => response,
            Err(fault) => return self.standing(want).filter(|_| is_away(&fault)).ok_or(fault),
        };
        let ticket = response.ticket.into_option().unwrap_or_default();
        if ticket.endpoint.is_empty() {
            return Err(Fault::internal(format!("the ticket for {} names no engine", want.role)));
        }
        let mut kept = self.lock();
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(want.key(ticket.one_conversation), ticket.clone());
        Ok(ticket)
    }

    /// The last ticket of a role, good or not, and for whichever language; that of the same conversation first.
    fn standing(&self, want: Want<'_>) -> Option<Ticket> {
        let now = self.ctx.clock().now();
        let kept = self.lock();
        let of_role = kept.iter().filter(|((of, ..), _)| of == want.role);
        let stands = of_role.filter(|(_, ticket)| now < Timestamp(ticket.expires_us) + STANDS);
        let own = |conversation: &Option<String>| conversation.as_deref() == Some(want.conversation);
        stands.max_by_key(|((.., of), ticket)| (own(of), ticket.expires_us)).map(|(_, ticket)| ticket.clone())
    }

    /// Lets go of a ticket whose engine failed or whose role is bound anew.
    pub(crate) fn forget(&self, ticket_id: &str) {
        self.lock().retain(|_, ticket| ticket.ticket_id != ticket_id);
    }

    /// Lets go of all tickets without giving them back; they end by themselves.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Gives all tickets back.
    pub(crate) async fn release_all(&self) {
        let tickets: Vec<Ticket> = self.lock().drain().map(|(_, ticket)| ticket).collect();
        for ticket in tickets {
            let request = ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
            // A ticket that cannot be given back ends by itself.
            let _ = self.ctx.peers().unary(models::RELEASE, request, &self.ctx.call()).await;
        }
    }

    /// A caller of the ticket's engine.
    ///
    /// # Errors
    /// `internal` when its address is none.
    pub(crate) fn engine(&self, ticket: &Ticket) -> Result<Client, Fault> {
        self.ctx.peers().at(&ticket.endpoint)
    }
}

fn good(ticket: &Ticket, now: Timestamp) -> bool {
    Timestamp(ticket.expires_us) > now + SPARE
}

/// Nobody answered, which is no answer about the model.
fn is_away(fault: &Fault) -> bool {
    [reason::PEER_AWAY, reason::BREAKER_OPEN, reason::TIME_UP].contains(&fault.reason.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tandem_agent::{AgentDef, Started};
    use tandem_contract::Service;
    use tandem_contract::pb::tandem::model::v1::AcquireResponse;
    use tandem_testkit::Rig;

    use super::*;

    static CONTEXT: Mutex<Option<Ctx>> = Mutex::new(None);

    /// Leaves its context to the test.
    static BORROWER: AgentDef = AgentDef {
        name: "ChitchatAgent",
        about: "Borrows models.",
        provides: &[],
        needs: &[],
        uses: &[],
        roles: &[],
        publishes: &[],
        required: false,
        start: |ctx| {
            Box::pin(async {
                *CONTEXT.lock().unwrap() = Some(ctx);
                Ok(Started::serve(Service::new()))
            })
        },
    };

    #[tokio::test]
    async fn tickets_are_kept_by_role_and_language() {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = asked.clone();
        let manager = Service::new().unary(models::ACQUIRE, move |_call, request: AcquireRequest| {
            let ticket_id = format!("{}/{}", request.role, request.language);
            told.lock().unwrap().push(ticket_id.clone());
            let endpoint = "http://127.0.0.1:1".into();
            let ticket = Ticket { ticket_id, endpoint, expires_us: i64::MAX, ..Default::default() };
            async { Ok(AcquireResponse { ticket: ticket.into(), ..Default::default() }) }
        });
        let rig = Rig::new(&BORROWER).peer("ModelManagerSuite", manager).start().await;
        let tickets = Tickets::new(&CONTEXT.lock().unwrap().clone().unwrap());
        assert_eq!(tickets.at_hand("llm.fast"), None);
        for language in ["tl", "en", "tl", "en"] {
            let want = Want { role: "llm.fast", language, ..Want::default() };
            assert_eq!(tickets.lend(want, &rig.call()).await.unwrap().ticket_id, format!("llm.fast/{language}"));
        }
        assert_eq!(*asked.lock().unwrap(), ["llm.fast/tl", "llm.fast/en"]);
        assert!(tickets.at_hand("llm.fast").is_some() && tickets.at_hand("llm.tiny").is_none());
        for n in 0..200 {
            let language = format!("x-{n}");
            tickets.lend(Want { role: "llm.fast", language: &language, ..Want::default() }, &rig.call()).await.unwrap();
            assert!(tickets.lock().len() <= MOST);
        }
    }

    #[tokio::test]
    async fn a_ticket_for_one_conversation_is_for_no_other() {
        let split: Arc<Mutex<bool>> = Arc::default();
        let told = split.clone();
        let manager = Service::new().unary(models::ACQUIRE, move |_call, request: AcquireRequest| {
            let ticket = Ticket {
                ticket_id: format!("of {}", request.session_key),
                endpoint: "http://127.0.0.1:1".into(),
                expires_us: i64::MAX,
                one_conversation: *told.lock().unwrap(),
                ..Default::default()
            };
            async { Ok(AcquireResponse { ticket: ticket.into(), ..Default::default() }) }
        });
        let rig = Rig::new(&BORROWER).peer("ModelManagerSuite", manager).start().await;
        let tickets = Tickets::new(&CONTEXT.lock().unwrap().clone().unwrap());
        let lend = async |conversation: &str| {
            let want = Want { role: "llm.fast", conversation, ..Want::default() };
            tickets.lend(want, &rig.call()).await.unwrap().ticket_id
        };
        assert_eq!((lend("ann").await.as_str(), lend("ben").await.as_str()), ("of ann", "of ann"), "for all");
        *split.lock().unwrap() = true;
        tickets.forget_all();
        for conversation in ["ann", "ben", "ann", "ben", ""] {
            assert_eq!(lend(conversation).await, format!("of {conversation}"));
        }
    }

    #[tokio::test]
    async fn the_last_ticket_stands_for_a_day_while_the_manager_is_away() {
        let answer: Arc<Mutex<Result<i64, Fault>>> = Arc::new(Mutex::new(Ok(0)));
        let told = answer.clone();
        let manager = Service::new().unary(models::ACQUIRE, move |_call, request: AcquireRequest| {
            let answer = told.lock().unwrap().clone();
            async move {
                let ticket = Ticket {
                    ticket_id: request.role.clone(),
                    endpoint: "http://127.0.0.1:1".into(),
                    expires_us: answer?,
                    ..Default::default()
                };
                Ok(AcquireResponse { ticket: ticket.into(), ..Default::default() })
            }
        });
        let rig = Rig::new(&BORROWER).peer("ModelManagerSuite", manager).start().await;
        let tickets = Tickets::new(&CONTEXT.lock().unwrap().clone().unwrap());
        let away = Fault::unavailable(reason::PEER_AWAY, "nobody answers").retry_after(Duration::from_secs(1));
        let lend = async || tickets.lend(Want { role: "llm.fast", ..Want::default() }, &rig.call()).await;
        *answer.lock().unwrap() = Err(away.clone());
        assert_eq!(lend().await.unwrap_err().reason, reason::PEER_AWAY, "there is none to stand in");
        *answer.lock().unwrap() = Ok((rig.clock.now() + Duration::from_secs(600)).micros());
        lend().await.unwrap();
        *answer.lock().unwrap() = Err(away.clone());
        for hours in [1, 23] {
            rig.clock.advance(Duration::from_hours(hours));
            assert_eq!(lend().await.unwrap().ticket_id, "llm.fast", "{hours} h later");
        }
        *answer.lock().unwrap() = Err(Fault::no_model("llm.fast"));
        assert_eq!(lend().await.unwrap_err().reason, reason::NO_MODEL, "an answer is believed");
        *answer.lock().unwrap() = Err(away);
        rig.clock.advance(Duration::from_hours(1));
        assert_eq!(lend().await.unwrap_err().reason, reason::PEER_AWAY, "a day is over");
    }
}
