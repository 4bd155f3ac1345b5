//! An agent's own word on how it is doing.

use std::sync::Arc;

use tandem_types::{Health, State};
use tokio::sync::watch;

use crate::Clock;

/// Lets an agent say how it is doing. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HealthHandle {
    sender: Arc<watch::Sender<Health>>,
    clock: Clock,
}

/// Follows an agent's health.
pub type HealthWatch = watch::Receiver<Health>;

impl HealthHandle {
    /// A handle with its follower; begins as `starting`.
    pub fn new(clock: Clock) -> (Self, HealthWatch) {
        let (sender, watch) = watch::channel(Health::new(State::Starting, "", clock.now()));
        (Self { sender: Arc::new(sender), clock }, watch)
    }

    /// Enters a state, unless state and cause are what they were. For hosts: it also leaves `draining`.
    pub fn set(&self, state: State, cause: impl Into<String>) {
        self.enter(state, cause.into(), |_| true);
    }

    /// What the agent says by itself. While it drains that is of no interest, and would hide from followers that it does.
    fn say(&self, state: State, cause: String) {
        self.enter(state, cause, |now| now != State::Draining);
    }

    fn enter(&self, state: State, cause: String, may_leave: impl FnOnce(State) -> bool) {
        let now = self.clock.now();
        self.sender.send_if_modified(|health| {
            if (health.state == state && health.cause == cause) || !may_leave(health.state) {
                return false;
            }
            let since = if health.state == state { health.since } else { now };
            *health = Health { state, cause, since };
            true
        });
    }

    /// Serves everything.
    pub fn ready(&self) {
        self.say(State::Ready, String::new());
    }

    /// Serves, but poorer, because of `cause`.
    pub fn degraded(&self, cause: impl Into<String>) {
        self.say(State::Degraded, cause.into());
    }

    /// Cannot serve its main purpose, because of `cause`.
    pub fn unavailable(&self, cause: impl Into<String>) {
        self.say(State::Unavailable, cause.into());
    }

    /// The health now.
    pub fn get(&self) -> Health {
        self.sender.borrow().clone()
    }

    /// Another follower.
    pub fn watch(&self) -> HealthWatch {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};
    use tandem_types::Timestamp;

    #[test]
    fn since_moves_with_the_state_and_not_with_the_cause() {
        let time = Arc::new(AtomicI64::new(1));
        let clock = Clock::from_fn({
            let time = time.clone();
            move || Timestamp(time.load(Ordering::SeqCst))
        });
        let (health, mut watch) = HealthHandle::new(clock);
        health.degraded("slow disk");
        time.store(5, Ordering::SeqCst);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        health.degraded("slow disk");
        assert!(!watch.has_changed().unwrap());
        health.degraded("slower disk");
        assert_eq!(health.get(), Health::new(State::Degraded, "slower disk", Timestamp(1)));
        health.ready();
        assert_eq!(health.get().since, Timestamp(5));
    }

    #[test]
    fn an_agent_that_drains_cannot_say_that_it_is_ready() {
        let (health, _) = HealthHandle::new(Clock::system());
        health.ready();
        health.set(State::Draining, "its group ends");
        health.ready();
        health.degraded("no chat");
        health.unavailable("no model");
        assert_eq!(health.get().state, State::Draining);
        health.set(State::Starting, "");
        health.ready();
        assert_eq!(health.get().state, State::Ready);
    }
}
