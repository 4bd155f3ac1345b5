//! The other RPCs: preparing, coming back, asking, stopping.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tandem_contract::pb::tandem::common::v1::ErrorInfo;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::pb::tandem::model::v1::{AcquireRequest, ReleaseRequest};
use tandem_contract::rpc::models;
use tandem_contract::{Call, Reply};
use tandem_store::requests::{Outcome, Status};
use tandem_types::{Code, Fault, RequestId, SessionId, TurnId, UserId, reason};

use super::turn::Turn;
use super::{Coordinator, RESTARTED};
use crate::fields::Fields;

/// Longest wait for a cancelled turn to end before Cancel returns.
const END_WAIT: Duration = Duration::from_secs(1);
/// Longest wait for a model that is warmed ahead.
const WARM_WAIT: Duration = Duration::from_secs(1);

type TurnEvents = BoxStream<'static, Result<pb::TurnEvent, Fault>>;

impl Coordinator {
    /// Warms the model that the turn will ask for. Its context is built by ContextManager where a fleet has it.
    pub(super) async fn prepare(
        self: Arc<Self>,
        call: Call,
        request: pb::PrepareRequest,
    ) -> Result<pb::PrepareResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let session = fields.parse::<SessionId>("session_id", &request.session_id);
        fields.require(!request.stable_partial.trim().is_empty(), "stable_partial", "is blank");
        fields.all(user.zip(session))?;
        let mut missing = vec!["ContextManager: no context is built ahead".to_owned()];
        if self.handlers.likely_role().is_none() {
            self.handlers.refresh().await;
        }
        match self.handlers.likely_role() {
            None => missing.push("ChitchatAgent: no handler says which model it needs".to_owned()),
            Some(role) => {
                if let Err(fault) = self.warm(&role, &call).await {
                    missing.push(format!("ModelManagerSuite: {} ({})", fault.message, fault.reason));
                }
            }
        }
        Ok(pb::PrepareResponse { missing, ..Default::default() })
    }

    async fn warm(&self, role: &str, call: &Call) -> Result<(), Fault> {
        let call = call.next(self.ctx.id()).within(WARM_WAIT, Instant::now());
        let request = AcquireRequest {
            role: role.to_owned(),
            priority: 1,
            holder: self.ctx.id().to_string(),
            ..Default::default()
        };
        let ticket = self.ctx.peers().unary(models::ACQUIRE, request, &call).await?.ticket;
        let request = ReleaseRequest { ticket_id: ticket.ticket_id.clone(), ..Default::default() };
        self.ctx.peers().unary(models::RELEASE, request, &call).await.map(drop)
    }

    /// Goes on with a turn after a lost connection.
    pub(super) async fn resume(
        self: Arc<Self>,
        _call: Call,
        request: pb::ResumeRequest,
    ) -> Result<Reply<pb::ResumeResponse>, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let id = fields.parse::<TurnId>("turn_id", &request.turn_id);
        let (user, id) = fields.all(user.zip(id))?;
        let events = match self.living(&user, id) {
            Some(turn) => turn.listen().follow(request.after_number).boxed(),
            None => self.kept_events(user, id, request.after_number).await?,
        };
        let response = |event: pb::TurnEvent| pb::ResumeResponse { event: event.into(), ..Default::default() };
        Ok(events.map(move |event| event.map(response)).boxed())
    }

    /// The events of a turn that has ended, as they are on disk: those after number `after`, and at least the last one.
    /// A turn that began anew after a restart is told whole, because numbers from before mean nothing for it.
    pub(super) async fn kept_events(&self, user: UserId, turn: TurnId, after: u64) -> Result<TurnEvents, Fault> {
        let mut events: Vec<pb::TurnEvent> = Vec::new();
        loop {
            let page = self.store.events(&user, turn, events.len() as u64).await?.events;
            if page.bodies.is_empty() {
                break;
            }
            for body in page.bodies {
                let unreadable = |e: serde_json::Error| {
                    Fault::internal(format!("kept events of turn {turn} cannot be read: {:?}", e.classify()))
                };
                events.push(serde_json::from_str(&body).map_err(unreadable)?);
            }
        }
        let anew = |event: &pb::TurnEvent| matches!(&event.event, Some(Event::Status(s)) if s.stage == RESTARTED);
        let after = if events.iter().take(2).any(anew) { 0 } else { usize::try_from(after).unwrap_or(usize::MAX) };
        let from = after.min(events.len().saturating_sub(1));
        Ok(futures::stream::iter(events.into_iter().skip(from).map(Ok)).boxed())
    }

    /// How a request is doing, and its answer within 24 hours.
    pub(super) async fn get_result(
        self: Arc<Self>,
        _call: Call,
        request: pb::GetResultRequest,
    ) -> Result<pb::GetResultResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let id = fields.parse::<RequestId>("request_id", &request.request_id);
        let (user, id) = fields.all(user.zip(id))?;
        let state = |state: &str| pb::GetResultResponse { state: state.to_owned(), ..Default::default() };
        if let Some(position) = self.place_of(&user, id) {
            return Ok(match position {
                0 => state("running"),
                position => pb::GetResultResponse { position, ..state("queued") },
            });
        }
        let row = self.store.request(&user, id).await?;
        let (Status::Over(outcome), Some(end)) = (row.status, row.end) else { return Ok(state("queued")) };
        let Some(answer) = end.answer.filter(|answer| !answer.is_empty()) else {
            return Err(Fault::not_found(format!("the answer to request {id} was erased 24 hours after its end")));
        };
        let unreadable = |_| Fault::internal(format!("the kept answer to request {id} cannot be read"));
        Ok(match outcome {
            Outcome::Done => {
                let answer: pb::Final = serde_json::from_str(&answer).map_err(unreadable)?;
                pb::GetResultResponse { answer: answer.into(), ..state("done") }
            }
            Outcome::Failed | Outcome::Cancelled => {
                let error: ErrorInfo = serde_json::from_str(&answer).map_err(unreadable)?;
                pb::GetResultResponse { error: error.into(), ..state(outcome.as_str()) }
            }
        })
    }

    /// Answers a question that a turn waits for.
    pub(super) async fn confirm(
        self: Arc<Self>,
        _call: Call,
        request: pb::ConfirmRequest,
    ) -> Result<pb::ConfirmResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        fields.require(!request.token.is_empty(), "token", "is missing");
        let user = fields.all(user)?;
        let question = self.store.answer(&user, &request.token, self.ctx.clock().now()).await?;
        // Only agents that change something ask, and none of those is part of this build.
        let message = format!("request {} does not wait for an answer any more", question.request);
        Err(Fault::new(Code::FailedPrecondition, reason::NO_SUCH, message))
    }

    /// Ends one turn.
    pub(super) async fn cancel(
        self: Arc<Self>,
        _call: Call,
        request: pb::CancelRequest,
    ) -> Result<pb::CancelResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let id = fields.parse::<TurnId>("turn_id", &request.turn_id);
        let (user, id) = fields.all(user.zip(id))?;
        let Some(turn) = self.living(&user, id) else {
            // Not found unless it was this person's.
            self.store.events(&user, id, 0).await?;
            return Ok(pb::CancelResponse { was_active: false, ..Default::default() });
        };
        self.stop(&turn, "the person stopped this turn");
        // Whoever cancels sees a turn that has ended, unless the disk is slow.
        let ended = turn.listen().follow(u64::MAX).for_each(|_| async {});
        let _ = tokio::time::timeout(END_WAIT, ended).await;
        Ok(pb::CancelResponse { was_active: true, ..Default::default() })
    }

    /// Ends whatever a session does and gives it a new turn number. Numbers rise, also across restarts: the first number
    /// of a session is the time in seconds.
    pub(super) async fn interrupt(
        self: Arc<Self>,
        _call: Call,
        request: pb::InterruptRequest,
    ) -> Result<pb::InterruptResponse, Fault> {
        let mut fields = Fields::default();
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let session = fields.parse::<SessionId>("session_id", &request.session_id);
        let word = request.reason.len() <= 32 && request.reason.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        fields.require(word, "reason", "is not one word of at most 32 letters, digits and _");
        let (user, session) = fields.all(user.zip(session))?;
        let turns: Vec<Arc<Turn>> = {
            let of = |turn: &&Arc<Turn>| {
                let session_is = turn.known.session.as_ref() == Some(&session);
                session_is && turn.known.asked.claim.user == user && !turn.is_stopped()
            };
            self.desk().turns.values().filter(of).cloned().collect()
        };
        for turn in &turns {
            self.stop(turn, &format!("interrupted: {}", request.reason));
        }
        let now = self.ctx.clock().now();
        let first = u64::try_from(now.micros() / 1_000_000).unwrap_or(0);
        let turn_number = {
            let mut desk = self.desk();
            let (number, at) = desk.numbers.entry(session).or_default();
            (*number, *at) = (first.max(*number + 1), now);
            *number
        };
        let ended_turns = turns.iter().map(|turn| turn.known.id.to_string()).collect();
        Ok(pb::InterruptResponse { turn_number, ended_turns, ..Default::default() })
    }

    /// The queue.
    pub(super) async fn queue_status(
        self: Arc<Self>,
        _call: Call,
        _request: pb::QueueStatusRequest,
    ) -> Result<pb::QueueStatusResponse, Fault> {
        let now = self.ctx.clock().now();
        let (by_number, running, limits, wait) = {
            let queue = &self.desk().queue;
            (queue.by_number(now), queue.running(), queue.limits(), queue.expected_wait(now))
        };
        let waits = by_number.iter().any(|count| *count > 0);
        let queued = (1..).zip(by_number).filter(|(_, count)| *count > 0);
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(pb::QueueStatusResponse {
            queued: queued
                .map(|(priority, queued)| pb::PriorityCount { priority, queued, ..Default::default() })
                .collect(),
            running: small(running),
            running_limit: small(limits.running),
            queue_limit: small(limits.queued),
            expected_wait_ms: super::turn::ms(wait),
            roles_awaited: self.handlers.likely_role().filter(|_| waits).into_iter().collect(),
            ..Default::default()
        })
    }

    /// A turn of this person that has not ended.
    fn living(&self, user: &UserId, id: TurnId) -> Option<Arc<Turn>> {
        self.desk().turns.get(&id).filter(|turn| turn.known.asked.claim.user == *user).cloned()
    }

    /// The place of a request that has not ended: 0 while it runs.
    fn place_of(&self, user: &UserId, id: RequestId) -> Option<u32> {
        let desk = self.desk();
        let of = |turn: &&Arc<Turn>| turn.known.request == id && turn.known.asked.claim.user == *user;
        let turn = desk.turns.values().find(of)?;
        let places = desk.queue.places(self.ctx.clock().now());
        let place = places.iter().position(|waiting| *waiting == turn.known.id).map_or(0, |place| place + 1);
        Some(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn stop(&self, turn: &Turn, why: &str) {
        turn.stop(Fault::new(Code::Cancelled, reason::CALLER_LEFT, why));
    }
}
