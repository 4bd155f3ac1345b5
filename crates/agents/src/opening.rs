//! Opening stores.

use tandem_types::Fault;

/// Opens a store away from the threads that serve, because opening waits for the disk.
pub(crate) async fn open<S: Send + 'static>(
    open: impl FnOnce() -> Result<S, Fault> + Send + 'static,
) -> Result<S, Fault> {
    tokio::task::spawn_blocking(open)
        .await
        .map_err(|e| Fault::internal(format!("the thread that opened a store ended: {e}")))?
}
