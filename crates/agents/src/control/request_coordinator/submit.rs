//! Taking requests in: fresh ones, repeated ones, and those that a former process left behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tandem_contract::pb::tandem::coordinator::v1 as pb;
use tandem_contract::{Call, Reply};
use tandem_store::personal::Consent;
use tandem_store::requests::{Accepted, Events, NewRequest, Unfinished};
use tandem_types::{Code, Fault, IdempotencyKey, RequestId, SessionId, TurnId, reason};
use uuid::Uuid;

use super::ask::{self, Asked, Content};
use super::finish::{end_of_failure, error_event};
use super::queue::{Full, Modality};
use super::turn::{Common, Known, Listener, Turn};
use super::{Coordinator, RESTARTED};
use crate::fields::Fields;

impl Coordinator {
    /// Takes a request and streams its turn.
    pub(super) async fn submit(
        self: Arc<Self>,
        call: Call,
        mut request: pb::SubmitRequest,
    ) -> Result<Reply<pb::SubmitResponse>, Fault> {
        let received = Instant::now();
        let mut fields = Fields::default();
        let key = fields.key(&std::mem::take(&mut request.idempotency_key));
        let body = serde_json::to_string(&request)
            .map_err(|e| Fault::internal(format!("cannot write a request as JSON: {:?}", e.classify())))?;
        let asked = ask::read(&mut fields, request, &self.settings.user_roles);
        let (key, asked) = fields.all(key.zip(asked))?;
        if matches!(asked.content, Content::Images(_)) {
            let message = "no VisionProcessingAgent in this fleet, so pictures cannot be looked at";
            return Err(Fault::unavailable(reason::NOT_BUILT, message));
        }
        self.presence.seen(&asked.claim.user, &asked.channel, self.ctx.clock().now());
        let listener = self.admit(&call, key, body, asked, received)?;
        // Nothing is shown before the request is on disk.
        let stream = match listener.turn().accepted.clone().await {
            Some(Ok(accepted)) if accepted.repeated => self.replay_repeated(&listener, accepted).await?,
            Some(Ok(_)) => listener.follow(0).boxed(),
            Some(Err(fault)) => return Err(fault),
            None => return Err(draining()),
        };
        Ok(stream
            .map(|event| event.map(|event| pb::SubmitResponse { event: event.into(), ..Default::default() }))
            .boxed())
    }

    /// Finds the turn of this key, or begins one. What can run at once does so beside the write of its row.
    fn admit(
        self: &Arc<Self>,
        call: &Call,
        key: IdempotencyKey,
        body: String,
        asked: Asked,
        received: Instant,
    ) -> Result<Listener, Fault> {
        let now = self.ctx.clock().now();
        let mut desk = self.desk();
        if let Some(turn) = desk.keys.get(&key).and_then(|id| desk.turns.get(id)) {
            if turn.known.body != body || turn.known.asked.claim.user != asked.claim.user {
                let message = format!("idempotency key {key} was used for another request; send a fresh key");
                return Err(Fault::new(Code::Conflict, reason::KEY_REUSED, message));
            }
            return Ok(turn.listen());
        }
        if desk.draining {
            return Err(draining());
        }
        // The caller's trace is the turn's, unless another turn has it already.
        let free = |id: &TurnId| !desk.turns.contains_key(id);
        let id =
            call.trace.map(|trace| trace.trace).filter(free).unwrap_or_else(|| TurnId(Uuid::new_v4().into_bytes()));
        let limit = Duration::from_secs(self.settings.turn_s);
        let deadline = call.deadline.unwrap_or(received + limit);
        let named_session = asked.session.is_some();
        let known = Known {
            request: RequestId(Uuid::now_v7().into_bytes()),
            id,
            span: call.trace.map_or_else(rand::random, |trace| trace.span),
            key: Some(key),
            session: match asked.content {
                Content::Messages(_) => None,
                _ => Some(asked.session.clone().unwrap_or_else(fresh_session)),
            },
            named_session,
            body,
            asked,
            at: now,
            received,
            deadline,
            restored: false,
            by: self.ctx.id().clone(),
        };
        let begun = desk.queue.offer(id, known.asked.claim.clone(), now).map_err(|Full(after)| {
            let message = format!("{} requests wait already; none was taken", desk.queue.limits().queued);
            Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, message).retry_after(after)
        })?;
        let number = desk.queue.number(&known.asked.claim, now, now);
        let position = desk.queue.places(now).iter().position(|waiting| *waiting == id).map_or(0, |place| place + 1);
        let (store, row) = (self.store.clone(), row(&known, number, now + deadline.duration_since(received)));
        let turn = Turn::new(known, self.run(async move { store.accept(key, row, now).await }), 0);
        turn.tell(accepted_event(&turn.known, position));
        desk.keys.insert(key, id);
        let listener = turn.listen();
        desk.turns.insert(id, turn.clone());
        if position > 0 {
            desk.places.insert(id, position);
        }
        let ready: Vec<Arc<Turn>> = begun.iter().filter_map(|id| desk.turns.get(id).cloned()).collect();
        drop(desk);
        self.publish_state(&turn, "received");
        self.ctx.spawn(self.clone().live(turn));
        ready.iter().for_each(|turn| turn.may_run.notify_one());
        Ok(listener)
    }

    /// A request that was accepted before: its turn where it still lives, else as it was kept.
    async fn replay_repeated(
        &self,
        listener: &Listener,
        accepted: Accepted,
    ) -> Result<futures::stream::BoxStream<'static, Result<pb::TurnEvent, Fault>>, Fault> {
        let user = &listener.turn().known.asked.claim.user;
        let living = self.desk().turns.get(&accepted.turn).cloned();
        match living {
            Some(turn) => Ok(turn.listen().follow(0).boxed()),
            None => self.kept_events(user.clone(), accepted.turn, 0).await,
        }
    }

    /// Begins again what a former process left behind. What had changed something outside ends with an error instead,
    /// because it must not do so twice.
    pub(super) async fn restore(self: &Arc<Self>) -> Result<(), Fault> {
        for left in self.store.unfinished().await? {
            let (request, last) = (left.request.id, left.last_event);
            match self.restorable(left) {
                Ok(known) => self.begin_restored(known, last),
                Err(fault) => self.end_restored(request, last, fault).await?,
            }
        }
        self.pump();
        Ok(())
    }

    fn restorable(&self, left: Unfinished) -> Result<Known, Fault> {
        let Unfinished { request: row, accepted, effects, .. } = left;
        if !effects.is_empty() {
            let message = format!("restarted in the middle; done by then: {}", effects.join(", "));
            return Err(Fault::new(Code::Internal, reason::RESTARTED, message));
        }
        let unreadable = |_| Fault::new(Code::Internal, reason::RESTARTED, "restarted, and the request cannot be read");
        let request: pb::SubmitRequest = serde_json::from_str(&row.body).map_err(unreadable)?;
        let mut fields = Fields::default();
        let asked = ask::read(&mut fields, request, &self.settings.user_roles);
        let asked = fields.all(asked)?;
        let left = row.deadline.since(self.ctx.clock().now());
        Ok(Known {
            request: row.id,
            id: row.turn,
            span: rand::random(),
            key: None,
            body: row.body,
            named_session: asked.session.is_some(),
            asked,
            session: row.session,
            at: accepted,
            received: Instant::now(),
            deadline: Instant::now() + left,
            restored: true,
            by: self.ctx.id().clone(),
        })
    }

    fn begin_restored(self: &Arc<Self>, known: Known, last_event: u64) {
        let accepted: Common<Result<Accepted, Fault>> = {
            let (request, turn, session) = (known.request, known.id, known.session.clone());
            self.run(async move { Ok(Accepted { request, turn, session, repeated: false }) })
        };
        let (id, claim, at) = (known.id, known.asked.claim.clone(), known.at);
        let turn = Turn::new(known, accepted, last_event);
        turn.tell(accepted_event(&turn.known, 0));
        turn.tell(pb::Status { stage: RESTARTED.into(), ..Default::default() });
        let mut desk = self.desk();
        desk.queue.restore(id, claim, at);
        desk.turns.insert(id, turn.clone());
        drop(desk);
        self.ctx.spawn(self.clone().live(turn));
    }

    async fn end_restored(&self, request: RequestId, last_event: u64, fault: Fault) -> Result<(), Fault> {
        let number = last_event + 1;
        let event = error_event(number, &fault);
        let events = Events { first: number, bodies: vec![serde_json::to_string(&event).unwrap_or_default()] };
        self.store.finish(request, events, end_of_failure(&fault, "", None), self.ctx.clock().now()).await
    }

    /// Begins what may run now and tells the others their places.
    pub(super) fn pump(&self) {
        let now = self.ctx.clock().now();
        let mut desk = self.desk();
        let begun = desk.queue.start(now);
        let places: HashMap<TurnId, usize> = desk.queue.places(now).into_iter().zip(1..).collect();
        let moved: Vec<(Arc<Turn>, usize)> = places
            .iter()
            .filter(|(id, place)| desk.places.get(*id) != Some(*place))
            .filter_map(|(id, place)| desk.turns.get(id).cloned().map(|turn| (turn, *place)))
            .collect();
        desk.places = places;
        let ready: Vec<Arc<Turn>> = begun.iter().filter_map(|id| desk.turns.get(id).cloned()).collect();
        metrics::gauge!("tandem_queue_depth", "agent" => super::DEF.name).set(desk.queue.waiting() as f64);
        drop(desk);
        ready.iter().for_each(|turn| turn.may_run.notify_one());
        for (turn, place) in moved {
            let position = u32::try_from(place).unwrap_or(u32::MAX);
            let at_ms = turn.elapsed_ms();
            turn.tell(pb::Status { stage: "queued".into(), at_ms, position, ..Default::default() });
        }
    }

    /// How long a turn goes on while nobody listens; none for those that nobody has to listen to.
    pub(super) fn grace(&self, turn: &Turn) -> Option<Duration> {
        let alone = turn.known.restored || turn.known.asked.claim.modality == Modality::Background;
        (!alone).then(|| Duration::from_secs_f64(self.settings.grace_s.max(0.0)))
    }
}

/// The next process of the group takes it.
fn draining() -> Fault {
    Fault::unavailable(reason::DRAINING, "the coordinator takes nothing new: its group is draining")
        .retry_after(Duration::from_secs(1))
}

fn fresh_session() -> SessionId {
    // A UUID is made of letters, digits and dashes, which every session id may have.
    SessionId::new(Uuid::now_v7().to_string()).unwrap_or_else(|_| unreachable!("a UUID is a session id"))
}

fn accepted_event(known: &Known, position: usize) -> pb::Accepted {
    pb::Accepted {
        request_id: known.request.to_string(),
        turn_id: known.id.to_string(),
        session_id: known.session.as_ref().map(ToString::to_string).unwrap_or_default(),
        position: u32::try_from(position).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

fn row(known: &Known, priority: u8, deadline: tandem_types::Timestamp) -> NewRequest {
    NewRequest {
        id: known.request,
        turn: known.id,
        user: known.asked.claim.user.clone(),
        consent: Consent::Serve,
        session: known.session.clone(),
        modality: known.asked.claim.modality.as_str().to_owned(),
        priority,
        deadline,
        body: known.body.clone(),
    }
}
