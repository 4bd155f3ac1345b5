//! Events between agents: ids and numbers, never words of a person.

use std::sync::Arc;

use async_trait::async_trait;
use tandem_types::{Fault, Timestamp, UserId};

use crate::def::Topic;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The same at each delivery, so that handlers can be idempotent.
    pub id: String,
    /// Name of the topic.
    pub topic: String,
    /// Order holds per key.
    pub key: String,
    /// Where to go on after it; 0 for live topics.
    pub cursor: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What it carries.
    pub payload: serde_json::Value,
    /// Live events lost before this one.
    pub lost: u64,
}

/// Keeps and hands out the events of one group. The host implements it.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Keeps an event, about a person if it is about one. Journal events are on disk when this returns.
    async fn publish(
        &self,
        topic: Topic,
        key: &str,
        user: Option<&UserId>,
        payload: serde_json::Value,
    ) -> Result<(), Fault>;
}

/// Publishes on behalf of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    bus: Arc<dyn EventBus>,
}

impl Publisher {
    /// Publishes into `bus`.
    pub fn new(bus: Arc<dyn EventBus>) -> Self {
        Self { bus }
    }

    /// Publishes an event. Events with the same key arrive in order.
    pub async fn publish(&self, topic: Topic, key: &str, payload: serde_json::Value) -> Result<(), Fault> {
        self.bus.publish(topic, key, None, payload).await
    }

    /// Publishes an event about a person, so that it is exported and forgotten with the person's data.
    pub async fn publish_about(
        &self,
        user: &UserId,
        topic: Topic,
        key: &str,
        payload: serde_json::Value,
    ) -> Result<(), Fault> {
        self.bus.publish(topic, key, Some(user), payload).await
    }
}
