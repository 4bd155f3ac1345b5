//! What an agent hands to the host once it runs: its four shapes in one value.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tandem_contract::Service;
use tandem_store::personal::PersonalData;
use tandem_types::Fault;

use crate::events::Event;

type Action = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>> + Send + Sync>;

/// Looks at state and acts, again and again; idempotent.
pub struct Reconciler {
    /// Name, for logs and metrics.
    pub name: &'static str,
    /// Time between two runs.
    pub period: Duration,
    /// Wakes it before the period is over.
    pub wake: Arc<tokio::sync::Notify>,
    /// One run.
    pub run: Action,
}

/// Handles one event; called again with the same event after a failure.
pub type EventHandler = Arc<dyn Fn(Event) -> Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>> + Send + Sync>;

/// A topic an agent listens to.
pub struct Subscription {
    /// Name of the topic.
    pub topic: &'static str,
    /// Called for each event, one after the other.
    pub handler: EventHandler,
}

/// What an agent adds to the pages of its group. Both answer at once, from what the agent has at hand.
#[derive(Clone, Default)]
pub struct Shows {
    /// Makes the page of metrics out of what the process has counted.
    pub metrics: Option<MetricsPage>,
    /// A further key of the agent's entry in `/health`, and its value.
    pub detail: Option<(&'static str, Detail)>,
}

/// See [`Started::metrics`].
pub type MetricsPage = Arc<dyn Fn(&str) -> String + Send + Sync>;
/// See [`Started::detail`].
pub type Detail = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// A running agent as the host sees it.
#[derive(Default)]
pub struct Started {
    /// RPCs it serves.
    pub service: Service,
    /// Work it does again and again.
    pub reconcilers: Vec<Reconciler>,
    /// Events it hears.
    pub subscriptions: Vec<Subscription>,
    /// Stores with people's data.
    pub stores: Vec<Arc<dyn PersonalData>>,
    /// Called once when the group drains, after calls have ended.
    pub drain: Option<Action>,
    /// What it adds to the pages of its group.
    pub shows: Shows,
}

impl Started {
    /// An agent that serves RPCs.
    pub fn serve(service: Service) -> Self {
        Self { service, ..Self::default() }
    }

    /// Also runs `action` each `period`.
    #[must_use]
    pub fn reconcile<F, Fut>(self, name: &'static str, period: Duration, action: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        self.reconcile_on(name, period, Arc::default(), action)
    }

    /// Also runs `action` each `period` and whenever `wake` is notified.
    #[must_use]
    pub fn reconcile_on<F, Fut>(
        mut self,
        name: &'static str,
        period: Duration,
        wake: Arc<tokio::sync::Notify>,
        action: F,
    ) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        self.reconcilers.push(Reconciler { name, period, wake, run: Arc::new(move || Box::pin(action())) });
        self
    }

    /// Also hears the events of a topic.
    #[must_use]
    pub fn on<F, Fut>(mut self, topic: &'static str, handler: F) -> Self
    where
        F: Fn(Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        self.subscriptions.push(Subscription { topic, handler: Arc::new(move |event| Box::pin(handler(event))) });
        self
    }

    /// Also answers for what this store holds about people.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn PersonalData>) -> Self {
        self.stores.push(store);
        self
    }

    /// Also makes the group's page of metrics, out of the page with what its process has counted. That page alone is
    /// at `/metrics?own`.
    #[must_use]
    pub fn metrics(mut self, page: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.shows.metrics = Some(Arc::new(page));
        self
    }

    /// Also says more in its entry in `/health`, under `key`.
    #[must_use]
    pub fn detail(mut self, key: &'static str, value: impl Fn() -> serde_json::Value + Send + Sync + 'static) -> Self {
        self.shows.detail = Some((key, Arc::new(value)));
        self
    }

    /// Also does this once when the group drains.
    #[must_use]
    pub fn on_drain<F, Fut>(mut self, action: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        self.drain = Some(Arc::new(move || Box::pin(action())));
        self
    }
}

/// A method of a shared agent as a handler: `bind(&agent, |agent, call, request| async move { .. })`.
pub fn bind<A, Req, Fut, F>(
    agent: &Arc<A>,
    method: F,
) -> impl Fn(tandem_contract::Call, Req) -> Fut + Send + Sync + 'static
where
    A: Send + Sync + 'static,
    F: Fn(Arc<A>, tandem_contract::Call, Req) -> Fut + Send + Sync + 'static,
{
    let agent = agent.clone();
    move |call, request| method(agent.clone(), call, request)
}
