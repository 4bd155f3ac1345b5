//! Starting, watching and stopping one child.

use std::ffi::{CString, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use tandem_types::{Fault, reason};
use tokio::time::{Interval, MissedTickBehavior};

use crate::caps::ControlGroup;
use crate::foreign::Foreign;
use crate::handles::{Handle, pass_on};
use crate::log::LogFile;
use crate::notify::{Message, NotifySocket};
use crate::usage::{Usage, usage};

/// Time between two looks at how long the log has grown.
const LOG_LOOK: Duration = Duration::from_secs(5);
/// Log lines kept as evidence.
const EVIDENCE_LINES: usize = 20;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spawn {
    /// Name in messages, for example `solo/coordination`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where its output goes.
    pub log: LogFile,
    /// Where its readiness socket is made.
    pub notify: PathBuf,
    /// The control group that it and everything it starts are in; none for that of whoever starts it.
    pub caps: Option<ControlGroup>,
}

/// A process to take over that somebody else started with [`Spawn`] and left behind.
#[derive(Debug, Clone)]
pub struct Adopt {
    /// Name in messages.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Its start, as [`Stat::started_ticks`](crate::Stat::started_ticks) has it.
    pub started_ticks: u64,
    /// Where its output goes.
    pub log: LogFile,
    /// Where it looks for its readiness socket.
    pub notify: PathBuf,
    /// The control group that it is in.
    pub caps: Option<ControlGroup>,
}

/// How a process ended. A process that was taken over has neither code nor signal: only who starts one is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, when it ended by itself.
    pub code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// What it used when last looked at.
    pub usage: Usage,
    /// Most memory: of its control group where the kernel counts that, else its own when last looked at.
    pub peak_bytes: Option<u64>,
    /// Its last log lines, oldest first.
    pub evidence: Vec<String>,
    /// Most memory of its control group, when it was killed, or nobody knows how it ended, after the kernel had ended
    /// something there for memory.
    pub out_of_memory: Option<u64>,
}

impl Exit {
    /// Whether it ended by itself without an error.
    pub fn is_clean(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, Some(signal)) => match Signal::try_from(signal) {
                Ok(name) => write!(f, "killed by {name}")?,
                Err(_) => write!(f, "killed by signal {signal}")?,
            },
            (None, None) => f.write_str("ended; how is not known")?,
        }
        match self.out_of_memory {
            Some(bytes) => write!(f, ", its group out of memory at {} MiB", bytes >> 20),
            None => Ok(()),
        }
    }
}

/// Has what a command starts begin in a control group. A process that cannot enter begins all the same; whoever needs to
/// know asks the group whether it holds it.
pub(crate) fn enter(command: &mut std::process::Command, group: &ControlGroup) {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::process::CommandExt as _;
    let paths = group.doors().into_iter().filter_map(|door| CString::new(door.as_os_str().as_bytes()).ok());
    let doors: Vec<CString> = paths.collect();
    let go_in = move || {
        for door in &doors {
            // "0" is whoever writes it.
            if let Ok(file) = nix::fcntl::open(door.as_c_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
                let (Ok(_) | Err(_)) = nix::unistd::write(&file, b"0");
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it only opens, writes and closes files whose names were made before; it allocates
    // nothing and takes no lock.
    #[allow(unsafe_code, reason = "a child that is moved later has run without its limits until then")]
    unsafe {
        command.pre_exec(go_in);
    }
}

/// What is waited for.
#[derive(Debug)]
enum Process {
    Own(tokio::process::Child),
    Foreign(Foreign),
}

impl Process {
    /// Its end, with how it was where this process may know.
    async fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Own(child) => child.wait().await.ok(),
            Self::Foreign(foreign) => {
                foreign.ended().await;
                None
            }
        }
    }
}

/// A running process, leader of its own process group. Dropping it leaves the process running.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: Process,
    pid: u32,
    notify: Arc<NotifySocket>,
    log: LogFile,
    usage: Usage,
    caps: Option<ControlGroup>,
    /// What its control group had ended for memory before it began.
    kills: u64,
    /// When its log is looked at.
    log_looks: Interval,
}

/// Looks that begin now; while nobody waits for the child none are made, nor made up for.
fn log_looks() -> Interval {
    let mut looks = tokio::time::interval(LOG_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// Waits for the end of a process and keeps its log from filling the disk meanwhile.
async fn ended(process: &mut Process, log: &LogFile, looks: &mut Interval) -> Option<ExitStatus> {
    loop {
        tokio::select! {
            status = process.ended() => return status,
            _ = looks.tick() => {
                let log = log.clone();
                let bound = tokio::task::spawn_blocking(move || log.bound().map_err(|e| (log, e)));
                if let Ok(Err((log, error))) = bound.await {
                    tracing::warn!(log = %log.path().display(), %error, "a log that has grown too long is not kept");
                }
            }
        }
    }
}

impl Child {
    /// Starts it. Output goes to the log from the first byte.
    pub fn spawn(spec: &Spawn) -> Result<Self, Fault> {
        Self::spawn_with(spec, vec![])
    }

    /// Starts it with sockets that were kept for it.
    pub fn spawn_with(spec: &Spawn, handles: Vec<Handle>) -> Result<Self, Fault> {
        let log = spec.log.open()?;
        let failed = |e: std::io::Error| {
            Fault::unavailable(reason::DISK, format!("cannot start {} ({}): {e}", spec.name, spec.program.display()))
        };
        let notify = Arc::new(NotifySocket::bind(&spec.notify)?);
        let mut command = tokio::process::Command::new(&spec.program);
        if let Some(group) = &spec.caps {
            enter(command.as_std_mut(), group);
        }
        pass_on(command.as_std_mut(), handles).map_err(failed)?;
        let child = command
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .env("NOTIFY_SOCKET", notify.path())
            // What systemd asks of this process it does not ask of its children.
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // A child that was never polled still has its id.
        let pid = child.id().unwrap_or_default();
        let (name, log, caps) = (spec.name.clone(), spec.log.clone(), spec.caps.clone());
        let kills = caps.as_ref().map_or(0, ControlGroup::memory_kills);
        let (process, usage) = (Process::Own(child), Usage::default());
        Ok(Self { name, process, pid, notify, log, usage, caps, kills, log_looks: log_looks() })
    }

    /// Takes over a process that runs, with its readiness socket made anew where it looks for it.
    ///
    /// # Errors
    /// When it has ended, or the socket cannot be made.
    pub fn adopt(spec: &Adopt) -> Result<Self, Fault> {
        let failed = |e: std::io::Error| {
            let message = format!("cannot take over {} (process {}): {e}", spec.name, spec.pid);
            Fault::unavailable(reason::ENGINE_LOST, message)
        };
        let foreign = Foreign::open(spec.pid, spec.started_ticks).map_err(failed)?;
        let (name, log, caps) = (spec.name.clone(), spec.log.clone(), spec.caps.clone());
        let kills = caps.as_ref().map_or(0, ControlGroup::memory_kills);
        Ok(Self {
            name,
            process: Process::Foreign(foreign),
            pid: spec.pid,
            notify: Arc::new(NotifySocket::bind(&spec.notify)?),
            log,
            usage: Usage::default(),
            caps,
            kills,
            log_looks: log_looks(),
        })
    }

    /// Its process id, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it uses now; the last known figures once it has ended.
    pub fn usage(&mut self) -> Usage {
        if let Some(now) = usage(self.pid) {
            self.usage = now;
        }
        self.usage
    }

    /// Waits until it says READY, or ends, or `within` is over.
    pub async fn ready(&mut self, within: Duration) -> Result<Message, Fault> {
        let name = self.name.clone();
        let waited = tokio::time::timeout(within, async {
            loop {
                tokio::select! {
                    // A message that was sent before the end counts.
                    biased;
                    message = self.notify.receive() => if message.is_ready() { return Ok(message) },
                    status = ended(&mut self.process, &self.log, &mut self.log_looks) => return Err(self.exit(status)),
                }
            }
        })
        .await;
        match waited {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(exit)) => Err(Fault::unavailable(
                reason::ENGINE_LOST,
                match &exit.evidence[..] {
                    [] => format!("{name} ended before it was ready, without a word: {exit}"),
                    lines => format!("{name} ended before it was ready: {exit}; its last words: {}", lines.join(" | ")),
                },
            )),
            Err(_) => {
                Err(Fault::unavailable(reason::TIME_UP, format!("{name} was not ready within {} s", within.as_secs())))
            }
        }
    }

    /// The next message it sends.
    pub async fn message(&self) -> Message {
        self.notify.receive().await
    }

    /// Where its messages arrive, for who hears them while its end is waited for.
    pub fn messages(&self) -> Arc<NotifySocket> {
        self.notify.clone()
    }

    /// Waits for its end.
    pub async fn exited(&mut self) -> Exit {
        let status = ended(&mut self.process, &self.log, &mut self.log_looks).await;
        self.exit(status)
    }

    fn exit(&mut self, status: Option<ExitStatus>) -> Exit {
        use std::os::unix::process::ExitStatusExt as _;
        let signal = status.and_then(|s| s.signal());
        let own_peak = Some(self.usage.peak_bytes).filter(|bytes| *bytes > 0);
        // The kernel ends with SIGKILL what it ends for memory.
        let may_be_memory = status.is_none() || signal == Some(Signal::SIGKILL as i32);
        Exit {
            code: status.and_then(|s| s.code()),
            signal,
            usage: self.usage,
            peak_bytes: self.caps.as_ref().and_then(ControlGroup::peak_bytes).or(own_peak),
            evidence: self.log.tail(EVIDENCE_LINES),
            out_of_memory: self.out_of_memory().filter(|_| may_be_memory),
        }
    }

    fn out_of_memory(&self) -> Option<u64> {
        let group = self.caps.as_ref().filter(|group| group.memory_kills() > self.kills)?;
        Some(group.peak_bytes().unwrap_or(0))
    }

    /// Sends a signal to the whole process group; does nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid)
            && pid > 0
        {
            // The only failure is ESRCH: it has ended, which is what every caller wants to bring about.
            let (Ok(()) | Err(_)) = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end, and ends its whole group by force when it has not within `grace`.
    pub async fn stop(&mut self, grace: Duration) -> Exit {
        self.usage();
        self.signal(Signal::SIGTERM);
        let exit = match tokio::time::timeout(grace, self.exited()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.signal(Signal::SIGKILL);
                self.exited().await
            }
        };
        // Whatever the leader left behind in its group goes too.
        self.signal(Signal::SIGKILL);
        exit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Stat;
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;

    fn shell(folder: &Path, script: &str) -> Child {
        Child::spawn(&Spawn {
            name: "test".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![],
            log: LogFile::new(folder.join("test.log")),
            notify: folder.join("test.notify"),
            caps: None,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn an_end_before_readiness_says_how_and_shows_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "echo port 8200 is taken; exit 3");
        let fault = child.ready(Duration::from_secs(10)).await.unwrap_err();
        assert!(fault.message.contains("exit code 3"), "{fault}");
        assert!(fault.message.contains("port 8200 is taken"), "{fault}");
    }

    #[tokio::test]
    async fn a_deaf_child_and_its_children_end_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "trap '' TERM; sleep 1000 & echo up; wait; sleep 1000");
        while child.log.tail(1).is_empty() {
            tokio::task::yield_now().await;
        }
        let exit = child.stop(Duration::from_millis(50)).await;
        assert_eq!(exit.signal, Some(Signal::SIGKILL as i32));
        assert_eq!(exit.to_string(), "killed by SIGKILL");
    }

    #[tokio::test]
    async fn the_log_of_a_child_that_writes_without_end_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell(folder.path(), "head -c 20000000 /dev/zero; echo; echo last; exec sleep 1000");
        let put_aside = async {
            while !folder.path().join("test.log.1").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            exit = child.exited() => panic!("it runs: {exit}"),
            () = put_aside => {}
        }
        child.stop(Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn a_process_that_another_one_started_is_taken_over_and_its_end_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut former = std::process::Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let started_ticks = Stat::of(former.id()).unwrap().started_ticks();
        let log = LogFile::new(folder.path().join("x.log"));
        let notify = folder.path().join("x.notify");
        let spec = Adopt { name: "x".into(), pid: former.id(), started_ticks, log, notify, caps: None };
        let mut child = Child::adopt(&spec).unwrap();
        assert_eq!(child.pid(), former.id());
        tokio::select! {
            biased;
            exit = child.exited() => panic!("it runs: {exit}"),
            () = tokio::task::yield_now() => {}
        }
        let exit = child.stop(Duration::from_secs(60)).await;
        assert_eq!((exit.code, exit.signal), (None, None));
        assert_eq!(exit.to_string(), "ended; how is not known");
        former.wait().unwrap();
        let fault = Child::adopt(&spec).unwrap_err();
        assert!(fault.message.contains("cannot take over x"), "{fault}");
        // Its number may have come again, as that of another process.
        let other = Adopt { pid: std::process::id(), started_ticks: 1, ..spec };
        assert!(Child::adopt(&other).is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spec = Spawn {
            name: "engine".into(),
            program: "/no/such/program".into(),
            args: vec![],
            env: vec![],
            log: LogFile::new(folder.path().join("x.log")),
            notify: folder.path().join("x.notify"),
            caps: None,
        };
        let fault = Child::spawn(&spec).unwrap_err();
        assert!(fault.message.contains("/no/such/program"), "{fault}");
    }
}
