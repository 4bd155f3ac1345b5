//! Connections that end when the node at their other end stops being a member.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tandem_trust::Identity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// An open connection: what its other end showed, and how to end it.
struct Guard {
    certificates: Vec<CertificateDer<'static>>,
    cut: CancellationToken,
}

/// Every open connection of a process.
#[derive(Default)]
pub(super) struct Guards {
    open: Mutex<Vec<Weak<Guard>>>,
}

impl Guards {
    pub(super) fn add(&self, certificates: &[CertificateDer<'_>]) -> Arc<impl Sized + Cut + use<>> {
        let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
        let guard = Arc::new(Guard { certificates, cut: CancellationToken::new() });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|one| one.strong_count() > 0);
        open.push(Arc::downgrade(&guard));
        guard
    }

    /// Ends the connections to those who would be refused now; with no identity all of them.
    pub(super) fn check(&self, identity: Option<&Identity>, now: SystemTime) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for guard in open.iter().filter_map(Weak::upgrade) {
            let refused = match identity {
                Some(identity) if !guard.certificates.is_empty() => identity.verify(&guard.certificates, now).err(),
                // Who showed nothing came to join or to renew.
                Some(_) => None,
                None => Some(tandem_types::Fault::not_found("this machine left the fleet")),
            };
            if let Some(fault) = refused {
                tracing::warn!(%fault, "a connection is ended");
                guard.cut.cancel();
            }
        }
    }
}

/// What ends a connection.
pub(super) trait Cut: Send + Sync {
    fn token(&self) -> &CancellationToken;
}

impl Cut for Guard {
    fn token(&self) -> &CancellationToken {
        &self.cut
    }
}

/// A connection under guard.
pub struct Secured<S> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Held for as long as the connection is.
    _guard: Arc<dyn Cut>,
}

impl<S> Secured<S> {
    pub(super) fn new(stream: S, guard: Arc<impl Cut + 'static>) -> Self {
        let cut = Box::pin(guard.token().clone().cancelled_owned());
        Self { stream, cut, _guard: guard }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its node is no member of the fleet any more"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Secured<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
