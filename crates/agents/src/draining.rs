//! Ending streams that have no end of their own when their agent is about to stop, so that nobody waits for them.

use std::future::Future;

use tandem_agent::Ctx;
use tandem_types::State;

/// Completes when the agent begins to drain; for `StreamExt::take_until`. Who reads the stream begins it anew.
pub(crate) fn draining(ctx: &Ctx) -> impl Future<Output = ()> + Send + use<> {
    let mut health = ctx.health().watch();
    async move {
        // An error says that the agent is gone, which is an end too.
        let (Ok(_) | Err(_)) = health.wait_for(|health| health.state == State::Draining).await;
    }
}
