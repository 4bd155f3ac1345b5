//! The events of a group: live ones in memory, journal ones on disk; handed out by `Subscribe`, followed by agents.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use tandem_agent::{AgentDef, Clock, Event, EventBus, EventHandler, PersonalData, Topic, TopicKind, backoff};
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::{Call, Reply, rpc};
use tandem_store::journal::{Journal, NewEvent, SqliteJournal};
use tandem_types::{AgentId, Fault, Timestamp, UserId};
use tokio::sync::broadcast;
use tracing::warn;

use crate::Shared;

/// Events of a live topic that are kept for slow subscribers.
const LIVE_KEPT: usize = 256;
/// Journal events read at once.
const BATCH: u32 = 100;

/// The events of one group.
pub(crate) struct Events {
    live: HashMap<&'static str, broadcast::Sender<Event>>,
    journal: Option<Arc<SqliteJournal>>,
    clock: Clock,
}

fn event_of(kept: &tandem_store::journal::Event) -> Event {
    Event {
        id: kept.id.clone(),
        topic: kept.event.topic.clone(),
        key: kept.event.key.clone(),
        cursor: kept.cursor,
        at: kept.at,
        payload: serde_json::from_str(&kept.event.payload).unwrap_or_default(),
        lost: 0,
    }
}

impl Events {
    /// Opens the journal where agents of the group publish into one or follow others'.
    pub(crate) fn open(defs: &[&'static AgentDef], data: &Path, clock: Clock) -> Result<Self, Fault> {
        let topics = || defs.iter().flat_map(|def| def.publishes.iter());
        let live = topics()
            .filter(|t| t.kind == TopicKind::Live)
            .map(|t| (t.name, broadcast::Sender::new(LIVE_KEPT)))
            .collect();
        let journal = match defs.is_empty() {
            true => None,
            false => Some(Arc::new(SqliteJournal::open(data.join("events.db"))?)),
        };
        Ok(Self { live, journal, clock })
    }

    pub(crate) fn journal(&self) -> Option<&Arc<SqliteJournal>> {
        self.journal.as_ref()
    }

    /// What the journal holds about people.
    pub(crate) fn journal_data(&self) -> Option<Arc<dyn PersonalData>> {
        self.journal.clone().map(|journal| journal as Arc<dyn PersonalData>)
    }

    /// Events of `topics` as they come; journal ones from after `cursor`.
    pub(crate) fn subscribe(&self, topics: &[String], cursor: u64, only_new: bool) -> Reply<Event> {
        let mut streams: Vec<Reply<Event>> = Vec::new();
        for topic in topics {
            if let Some(sender) = self.live.get(topic.as_str()) {
                streams.push(live(sender.subscribe()));
            }
        }
        let kept: Vec<String> = topics.iter().filter(|t| !self.live.contains_key(t.as_str())).cloned().collect();
        if let (false, Some(journal)) = (kept.is_empty(), &self.journal) {
            let head = journal.head();
            let after = if only_new { *head.borrow() } else { cursor };
            streams.push(kept_events(journal.clone(), kept, after));
        }
        Box::pin(futures::stream::select_all(streams))
    }
}

fn live(receiver: broadcast::Receiver<Event>) -> Reply<Event> {
    Box::pin(futures::stream::unfold((receiver, 0), |(mut receiver, mut lost)| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((Ok(Event { lost, ..event }), (receiver, 0))),
                Err(broadcast::error::RecvError::Lagged(missed)) => lost += missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }))
}

fn kept_events(journal: Arc<SqliteJournal>, topics: Vec<String>, after: u64) -> Reply<Event> {
    let head = journal.head();
    Box::pin(
        futures::stream::unfold((journal, topics, after, head), |(journal, topics, mut after, mut head)| async move {
            loop {
                // Marked as seen before reading, so that an event published meanwhile wakes the next wait.
                head.borrow_and_update();
                match journal.read(&topics, after, BATCH).await {
                    Ok(batch) if batch.events.is_empty() && batch.next > after => after = batch.next,
                    Ok(batch) if batch.events.is_empty() => {
                        head.changed().await.ok()?;
                    }
                    Ok(batch) => {
                        let events: Vec<_> = batch.events.iter().map(|e| Ok(event_of(e))).collect();
                        return Some((futures::stream::iter(events), (journal, topics, batch.next, head)));
                    }
                    Err(fault) => {
                        return Some((futures::stream::iter(vec![Err(fault)]), (journal, vec![], u64::MAX, head)));
                    }
                }
            }
        })
        .flatten(),
    )
}

#[async_trait]
impl EventBus for Events {
    async fn publish(
        &self,
        topic: Topic,
        key: &str,
        user: Option<&UserId>,
        payload: serde_json::Value,
    ) -> Result<(), Fault> {
        let now = self.clock.now();
        match (topic.kind, &self.journal) {
            (TopicKind::Live, _) => {
                if let Some(sender) = self.live.get(topic.name) {
                    // Nobody listening is not an error: live events are for whoever is there.
                    let (Ok(_) | Err(_)) = sender.send(Event {
                        id: uuid::Uuid::new_v4().simple().to_string(),
                        topic: topic.name.to_owned(),
                        key: key.to_owned(),
                        cursor: 0,
                        at: now,
                        payload,
                        lost: 0,
                    });
                }
                Ok(())
            }
            (TopicKind::Journal, Some(journal)) => {
                let event = NewEvent {
                    topic: topic.name.to_owned(),
                    key: key.to_owned(),
                    user: user.cloned(),
                    payload: payload.to_string(),
                };
                journal.append(vec![event], now).await.map(drop)
            }
            (TopicKind::Journal, None) => Err(Fault::internal(format!("no journal to publish {} in", topic.name))),
        }
    }
}

/// An event as it goes to a subscriber.
pub(crate) fn to_wire(event: Event) -> pb::SubscribeResponse {
    pb::SubscribeResponse {
        event_id: event.id,
        topic: event.topic,
        key: event.key,
        cursor: event.cursor,
        at_us: event.at.micros(),
        payload_json: event.payload.to_string(),
        lost: event.lost,
        ..Default::default()
    }
}

fn from_wire(event: pb::SubscribeResponse) -> Event {
    Event {
        id: event.event_id,
        topic: event.topic,
        key: event.key,
        cursor: event.cursor,
        at: Timestamp(event.at_us),
        payload: serde_json::from_str(&event.payload_json).unwrap_or_default(),
        lost: event.lost,
    }
}

/// Follows a topic for an agent until the agent ends. Returns only what makes the agent fail: nothing does.
pub(crate) async fn follow(shared: Arc<Shared>, me: AgentId, topic: &'static str, handler: EventHandler) -> String {
    let peers = shared.peers.for_agent(me.clone());
    let Some(source) = peers.fleet().publisher(topic, &me.node).map(|group| group.id.clone()) else {
        // Nobody of this fleet publishes it.
        return std::future::pending().await;
    };
    let (subscriber, source_name) = (format!("{}:{topic}", me.agent), source.to_string());
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let cursor = match shared.events.journal() {
            Some(journal) => journal.cursor(&subscriber, &source_name).await.unwrap_or_default(),
            None => 0,
        };
        let topics = vec![topic.to_owned()];
        let opened: Result<Reply<Event>, Fault> = if source == shared.roster.group {
            Ok(shared.events.subscribe(&topics, cursor, false))
        } else {
            let request = pb::SubscribeRequest { topics, after_cursor: cursor, ..Default::default() };
            match peers.group(&source) {
                Ok(client) => client
                    .server_stream(rpc::host::SUBSCRIBE, request, &Call::by(&me))
                    .await
                    .map(|stream| Box::pin(stream.map(|item| item.map(from_wire))) as Reply<Event>),
                Err(fault) => Err(fault),
            }
        };
        if let Ok(mut stream) = opened {
            while let Some(Ok(event)) = stream.next().await {
                let (cursor, at) = (event.cursor, event.at);
                if let Err(fault) = handler(event).await {
                    warn!(agent = %me, topic, %fault, "an event could not be handled; it comes again");
                    break;
                }
                let lag = shared.roster.clock.now().since(at).as_secs_f64();
                metrics::gauge!("tandem_event_lag", "agent" => me.to_string(), "topic" => topic).set(lag);
                if let (true, Some(journal)) = (cursor > 0, shared.events.journal())
                    && let Err(fault) = journal.save_cursor(&subscriber, &source_name, cursor).await
                {
                    warn!(agent = %me, topic, %fault, "how far events were handled could not be kept");
                }
            }
        }
        failures = if began.elapsed() > Duration::from_secs(5) { 1 } else { failures + 1 };
        // At least a moment, so that a source that ends at once is not asked in a tight loop.
        tokio::time::sleep(backoff(failures + 2, 1.0)).await;
    }
}
