//! What ties this process to the machine and to the one that started it.

use std::future::Future;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getppid};
use tandem_types::Fault;
use tokio::signal::unix::{SignalKind, signal};

/// How often a waiting thread looks before it sleeps. libgomp's own choice is right for a machine that does nothing
/// else: there, this costs a few per cent; beside one other busy program it is several times faster.
const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "1000");

/// Sets how llama.cpp's threads wait for each other, unless the environment says. libgomp reads it before `main`, so
/// the program starts itself once more, as the same process.
pub(crate) fn settle_openmp() {
    let said = |name: &str| std::env::var_os(name).is_some();
    if said(SPINS.0) || said("OMP_WAIT_POLICY") {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // On success this does not return; a failure only costs speed.
    let error = again.args(arguments).env(SPINS.0, SPINS.1).exec();
    drop(error);
}

/// The process that started this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent(Pid);

impl Parent {
    /// Asks the kernel for a signal when the parent ends.
    pub(crate) fn watch() -> nix::Result<Self> {
        let parent = Self(getppid());
        set_pdeathsig(Signal::SIGHUP)?;
        Ok(parent)
    }

    /// The kernel signals the end of the *thread* that started this process, which need not be the end of its process.
    fn is_gone(self) -> bool {
        getppid() != self.0
    }
}

/// Resolves on SIGTERM or SIGINT. When the parent is gone the process ends at once: there is nobody to answer.
pub(crate) fn asked_to_end(parent: Parent) -> Result<impl Future<Output = ()>, Fault> {
    let listen = |kind| signal(kind).map_err(|e| Fault::internal(format!("listen for signals: {e}")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hup = listen(SignalKind::hangup())?;
    Ok(async move {
        // It may have gone before anybody listened.
        let mut gone = parent.is_gone();
        loop {
            if gone {
                tracing::warn!("the process that started this engine is gone");
                // Not an orderly exit: that would run llama.cpp's destructors beside its working thread.
                let _ = raise(Signal::SIGKILL);
            }
            tokio::select! {
                _ = term.recv() => return,
                _ = int.recv() => return,
                _ = hup.recv() => gone = parent.is_gone(),
            }
        }
    })
}
