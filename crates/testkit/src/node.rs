//! A node that knows what a test has it know.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tandem_agent::{NodeSource, NodeView};
use tandem_types::Fault;

/// What a fake node knows; clones share it.
#[derive(Clone, Default)]
pub struct FakeNode {
    view: Arc<Mutex<NodeView>>,
}

impl FakeNode {
    /// From now on it knows this.
    pub fn knows(&self, view: NodeView) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

impl NodeSource for FakeNode {
    fn look(&self) -> BoxFuture<'_, Result<NodeView, Fault>> {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async { Ok(view) })
    }
}
