//! Who is in the group and how each is doing: the one source of truth for routing, health and registration.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tandem_agent::{AgentDef, Clock, FleetAgent, FleetGroup, HealthHandle, InFlight, PersonalData, Shows};
use tandem_contract::LocalService;
use tandem_types::{AgentId, AgentName, GroupId, Health, State, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::logic::{Member, roll_up};

/// Calls one agent serves at once; more are refused.
pub(crate) const MOST_CALLS: usize = 256;

/// What a person or another agent wants of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Start,
    Stop,
    Restart,
}

/// What a running agent gave to the host.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) service: LocalService,
    pub(crate) stores: Vec<Arc<dyn PersonalData>>,
    pub(crate) shows: Shows,
}

/// An agent's place in the group.
pub(crate) struct Slot {
    pub(crate) id: AgentId,
    pub(crate) facts: FleetAgent,
    /// None when this build has no code for it.
    pub(crate) def: Option<&'static AgentDef>,
    pub(crate) health: HealthHandle,
    pub(crate) restarts: AtomicU32,
    pub(crate) calls: InFlight,
    pub(crate) orders: mpsc::Sender<Order>,
    live: RwLock<Option<Live>>,
    /// What it needs and has lost, in words, and since when.
    lost: RwLock<(String, Timestamp)>,
}

impl Slot {
    /// Sets what it needs and has lost; whether that changed anything.
    pub(crate) fn set_lost(&self, words: String, now: Timestamp) -> bool {
        let mut lost = self.lost.write().unwrap_or_else(PoisonError::into_inner);
        if lost.0 == words {
            return false;
        }
        *lost = (words, now);
        true
    }

    pub(crate) fn live(&self) -> Option<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_live(&self, live: Option<Live>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }

    /// How it is doing: its own word, poorer while something it needs is lost. None when it is not built.
    pub(crate) fn health(&self) -> Option<Health> {
        self.def?;
        let own = self.health.get();
        let lost = self.lost.read().unwrap_or_else(PoisonError::into_inner);
        if lost.0.is_empty() || own.state != State::Ready {
            return Some(own);
        }
        Some(Health::new(State::Degraded, lost.0.clone(), lost.1))
    }

    pub(crate) fn load(&self) -> f32 {
        #[allow(clippy::cast_precision_loss, reason = "at most a few hundred calls")]
        let share = self.calls.count() as f32 / MOST_CALLS as f32;
        share.min(1.0)
    }
}

/// The group.
pub(crate) struct Roster {
    pub(crate) group: GroupId,
    pub(crate) slots: Vec<Arc<Slot>>,
    pub(crate) clock: Clock,
    draining: AtomicBool,
    changes: watch::Sender<u64>,
    since: RwLock<(State, Timestamp)>,
}

impl Roster {
    /// The roster of a planned group, with one order queue per agent for its supervisor.
    pub(crate) fn new(
        group: &FleetGroup,
        find: impl Fn(&str) -> Option<&'static AgentDef>,
        clock: Clock,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<Order>>) {
        let mut queues = Vec::new();
        let slots = group
            .agents
            .iter()
            .map(|facts| {
                let (orders, queue) = mpsc::channel(4);
                queues.push(queue);
                Arc::new(Slot {
                    id: group.id.agent(facts.name.clone()),
                    def: find(facts.name.as_str()),
                    facts: facts.clone(),
                    health: HealthHandle::new(clock.clone()).0,
                    restarts: AtomicU32::new(0),
                    calls: InFlight::default(),
                    orders,
                    live: RwLock::new(None),
                    lost: RwLock::default(),
                })
            })
            .collect();
        let roster = Self {
            group: group.id.clone(),
            slots,
            draining: AtomicBool::new(false),
            changes: watch::Sender::new(0),
            since: RwLock::new((State::Starting, clock.now())),
            clock,
        };
        (Arc::new(roster), queues)
    }

    pub(crate) fn slot(&self, name: &AgentName) -> Option<&Arc<Slot>> {
        self.slots.iter().find(|slot| slot.facts.name == *name)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        // Agents that hold streams open for as long as they run end them when they see this.
        for slot in self.slots.iter().filter(|slot| slot.health().is_some_and(|h| h.state.serves())) {
            slot.health.set(State::Draining, "its group ends");
        }
        self.changed();
    }

    /// Something about an agent has changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Calls that are being served.
    pub(crate) fn calls(&self) -> usize {
        self.slots.iter().map(|slot| slot.calls.count()).sum()
    }

    /// How the group is doing.
    pub(crate) fn health(&self) -> Health {
        let members: Vec<Member> = self
            .slots
            .iter()
            .map(|slot| Member {
                name: slot.facts.name.to_string(),
                required: slot.facts.required,
                health: slot.health(),
            })
            .collect();
        let now = self.clock.now();
        let mut health = roll_up(&members, self.is_draining(), now);
        let mut since = self.since.write().unwrap_or_else(PoisonError::into_inner);
        if since.0 != health.state {
            *since = (health.state, now);
        }
        health.since = since.1;
        health
    }

    /// Whether every required agent has left `starting`.
    pub(crate) fn has_started(&self) -> bool {
        !matches!(self.health().state, State::Starting)
    }
}
