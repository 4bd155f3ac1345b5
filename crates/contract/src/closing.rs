//! Ending a port without breaking off who has just connected.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;

/// Serves a connection until it ends. From `closing` on it takes no further requests and ends with the answers that are under
/// way; but whoever has connected and not `asked` yet is about to ask, and would not know whether that was begun, so its first
/// request is waited for, at most for `first`.
///
/// # Errors
/// That of the connection: as a rule its other end has left.
pub async fn serve_until<C: GracefulConnection>(
    connection: C,
    asked: impl Future<Output = ()>,
    closing: impl Future<Output = ()>,
    first: Duration,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let close = async {
        closing.await;
        // Time being up is a reason to close, too.
        let (Ok(()) | Err(_)) = tokio::time::timeout(first, asked).await;
    };
    tokio::select! {
        served = connection.as_mut() => return served,
        () = close => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
