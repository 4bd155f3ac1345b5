//! Who is here, and everything the coordinator publishes.
//!
//! Events go out in order through one task; a turn waits neither for it nor for the disk its events go to, except where
//! it says so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tandem_agent::{Ctx, Topic};
use tandem_types::{Timestamp, UserId};
use tokio::sync::mpsc;

use super::turn::Turn;
use super::{Coordinator, TIER, TURN_STATE, USER_ACTIVE, USER_IDLE};

/// Events that may wait to be published; a further one is dropped and counted.
const WAITING: usize = 1_024;

struct Outgoing {
    topic: Topic,
    key: String,
    user: UserId,
    payload: Value,
}

/// People who sent something lately.
pub(super) struct Presence {
    idle: Duration,
    last: Mutex<HashMap<UserId, (Timestamp, String)>>,
    out: mpsc::Sender<Outgoing>,
}

impl Presence {
    /// Nobody is here yet. Starts the task that publishes.
    pub(super) fn start(ctx: &Ctx, idle: Duration) -> Self {
        let (out, mut events) = mpsc::channel::<Outgoing>(WAITING);
        let publisher = ctx.publisher().clone();
        ctx.spawn(async move {
            while let Some(Outgoing { topic, key, user, payload }) = events.recv().await {
                if let Err(fault) = publisher.publish_about(&user, topic, &key, payload).await {
                    tracing::warn!(topic = topic.name, code = %fault.code, "an event was not published");
                }
            }
        });
        Self { idle, last: Mutex::default(), out }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<UserId, (Timestamp, String)>> {
        // The map is whole after each single operation.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event in line.
    fn publish(&self, topic: Topic, key: &str, user: &UserId, payload: Value) {
        let event = Outgoing { topic, key: key.to_owned(), user: user.clone(), payload };
        if self.out.try_send(event).is_err() {
            metrics::counter!("tandem_events_dropped_total", "topic" => topic.name).increment(1);
        }
    }

    /// Takes up who was here when a former process ended, by when each sent the last request. Who became idle while
    /// nobody looked is told of now, maybe a second time.
    pub(super) fn resume(&self, requests: Vec<(UserId, Timestamp)>, now: Timestamp) {
        self.last().extend(requests.into_iter().map(|(user, last)| (user, (last, String::new()))));
        self.look_for_idle(now);
    }

    /// A person sent something.
    pub(super) fn seen(&self, user: &UserId, channel: &str, now: Timestamp) {
        let before = self.last().insert(user.clone(), (now, channel.to_owned()));
        if before.is_none() {
            self.publish(USER_ACTIVE, user.as_str(), user, payload(user, now, channel));
        }
    }

    /// Tells of those who sent nothing for too long.
    pub(super) fn look_for_idle(&self, now: Timestamp) {
        let gone: Vec<(UserId, (Timestamp, String))> =
            self.last().extract_if(|_, (last, _)| now.since(*last) >= self.idle).collect();
        for (user, (since, channel)) in gone {
            self.publish(USER_IDLE, user.as_str(), &user, payload(&user, since, &channel));
        }
    }
}

fn payload(user: &UserId, since: Timestamp, channel: &str) -> Value {
    json!({ "user": user, "since_us": since.micros(), "channel": channel })
}

impl Coordinator {
    /// Tells how far a turn has come.
    pub(super) fn publish_state(&self, turn: &Turn, phase: &str) {
        let handler = turn.progress().handler.as_ref().map(ToString::to_string);
        let payload = json!({ "turn": turn.known.id, "phase": phase, "tier": TIER, "handler": handler });
        self.presence.publish(TURN_STATE, &turn.known.id.to_string(), &turn.known.asked.claim.user, payload);
    }
}
