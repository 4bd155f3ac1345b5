//! The end of a process that somebody else started.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::stat::Stat;

/// A process that is no child of this one, held by a descriptor that means it and no later one of the same number.
#[derive(Debug)]
pub(crate) struct Foreign {
    fd: AsyncFd<OwnedFd>,
}

impl Foreign {
    /// The process `pid` that started at `started_ticks`.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub(crate) fn open(pid: u32, started_ticks: u64) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let fd = pidfd_open(number, PidfdFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::SRCH => gone(),
            other => other.into(),
        })?;
        // Looked at while the descriptor holds on to whoever has the number now.
        let same = Stat::of(pid).is_some_and(|stat| !stat.has_ended() && stat.started_ticks() == started_ticks);
        if !same {
            return Err(gone());
        }
        // SAFETY: the descriptor is owned by what is registered, which neither closes nor replaces it before it is dropped.
        #[allow(unsafe_code, reason = "no other way in says so of a descriptor that it owns")]
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// Waits for its end (pidfd_open(2): the descriptor becomes readable).
    pub(crate) async fn ended(&self) {
        // It can only fail when the runtime ends, and then nobody waits.
        let (Ok(_) | Err(_)) = self.fd.readable().await;
    }
}
