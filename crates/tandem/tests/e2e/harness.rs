//! A fleet of real processes, and the ways to ask and to disturb it.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event as Part;
use tandem_contract::pb::tandem::coordinator::v1::{Final, Modality, SubmitRequest, TurnEvent};
use tandem_contract::{Call, Channel, Client, FaultStream, rpc};
use tandem_node::{Control, Event, GroupState, GroupStatus, Happening, Layout, NodeStatus, get, orphans};
use tandem_types::Fault;
use tokio::sync::{Mutex, MutexGuard};

/// A limit that only a hang reaches.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The model every role is bound to.
pub(crate) const MODEL: &str = "smollm2-135m";

/// How often something that can only be asked for is asked for.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Engines slow each other too much to run side by side, also where all tests share one process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The program under test.
pub(crate) fn tandem() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    // What the person who runs the tests has set is not meant for them.
    for name in ["TANDEM_DATA", "TANDEM_FLEET", "TANDEM_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        command.env_remove(name);
    }
    command
}

/// What happens on a node.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// A running fleet. Everything it started has ended when it is dropped.
pub(crate) struct Fleet {
    _alone: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    file: PathBuf,
    layout: Layout,
    node: Option<std::process::Child>,
    ports: Ports,
    environment: Vec<(String, String)>,
}

/// Ports of one fleet.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) contract: u16,
    scrape: u16,
}

/// Groups of the default fleet, in the order of their ports.
pub(crate) const GROUPS: u16 = 6;

impl Ports {
    /// A block of ports nobody listens at; the page gets the one after the groups'.
    pub(crate) fn free() -> Self {
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let blocks = (0..11u16).map(|i| Self { contract: 8208 + i * 8, scrape: 9108 + i * 8 });
        let mut free = blocks.filter(|ports| {
            (0..=GROUPS).all(|i| is_free(ports.contract + i)) && (0..GROUPS).all(|i| is_free(ports.scrape + i))
        });
        free.next().expect("no block of ports is free between 8208 and 8300, 9108 and 9200")
    }

    /// One of the ports for scrapers.
    pub(crate) fn scrape(self, i: u16) -> u16 {
        self.scrape + i
    }

    /// Where the page is.
    pub(crate) fn page(self) -> u16 {
        self.contract + GROUPS
    }

    /// The default fleet on these ports, thinking with the test model.
    pub(crate) fn fleet(self, more: &str) -> String {
        let mut text = tandem_fleet::SOLO.replace("\"auto\"", &format!("{MODEL:?}"));
        for i in 0..GROUPS {
            text = text.replace(&format!("port = {}\n", 8200 + i), &format!("port = {}\n", self.contract + i));
            text = text.replace(&format!("port = {}\n", 9100 + i), &format!("port = {}\n", self.scrape + i));
        }
        text.replace("127.0.0.1:8280", &format!("127.0.0.1:{}", self.page())) + more
    }
}

impl Fleet {
    /// The default fleet, up and ready. `settings` is added to its file, `options` to `tandem up`.
    pub(crate) async fn up_with(settings: &str, options: &[&str]) -> Self {
        let mut fleet = Self::prepare(settings).await;
        fleet.start(options).await;
        fleet
    }

    /// The default fleet, up and ready.
    pub(crate) async fn up() -> Self {
        Self::up_with("", &[]).await
    }

    /// A fleet that has not been started.
    pub(crate) async fn prepare(settings: &str) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let engine = Path::new(env!("CARGO_BIN_EXE_tandem")).with_file_name("tandem-llama");
        assert!(engine.is_file(), "{} is missing: `cargo build -p tandem-engine-llama` makes it", engine.display());
        let list = tandem().args(["models", "list", "--json"]).output().unwrap();
        let models: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        let here = models.as_array().unwrap().iter().any(|m| m["name"] == MODEL && m["state"] == "present");
        assert!(here, "the model is missing: `tandem models pull {MODEL}` gets it");

        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("data"), None).unwrap();
        let (ports, file) = (Ports::free(), folder.path().join("fleet.toml"));
        std::fs::write(&file, ports.fleet(settings)).unwrap();
        Self { _alone: alone, folder, file, layout, node: None, ports, environment: Vec::new() }
    }

    /// Sets a variable of the environment in which the node is started.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the node and waits until every group is ready.
    pub(crate) async fn start(&mut self, options: &[&str]) {
        let output = File::create(self.folder.path().join("up.txt")).unwrap();
        let node = tandem()
            .args(["up", self.file.to_str().unwrap(), "--data", self.layout.data().to_str().unwrap()])
            .args(options)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        self.node = Some(node);
        let end = Instant::now() + LIMIT;
        let (status, mut events) = loop {
            match self.control().events().await {
                Ok((status, events)) => break (status, Box::pin(events) as Events),
                Err(fault) => {
                    let ended = self.node.as_mut().unwrap().try_wait().unwrap();
                    assert!(ended.is_none() && Instant::now() < end, "{fault}\n{}", self.said());
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        if !status.settled {
            self.wait_for(&mut events, |event| matches!(event.what, Happening::Settled { .. })).await;
        }
        let status = self.status().await;
        let up = |g: &&GroupStatus| matches!(g.state, GroupState::Ready | GroupState::Degraded);
        let down: Vec<_> = status.groups.iter().filter(|g| !up(g)).map(|g| (&g.group, g.state, &g.reason)).collect();
        assert!(down.is_empty(), "{down:?}\n{}", self.said());
        // The model is loaded beside the start, and the handler knows of it a little later.
        self.engine().await;
        self.healthy("language_stack").await;
    }

    /// Waits until a group says that it serves everything.
    async fn healthy(&self, name: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            let health = self.health(name).await;
            if health["state"] == "ready" {
                return;
            }
            assert!(Instant::now() < end, "{name} did not get ready: {health}\n{}", self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What `tandem up` has printed, and the last lines of every log.
    pub(crate) fn said(&self) -> String {
        let mut text = std::fs::read_to_string(self.folder.path().join("up.txt")).unwrap_or_default();
        for path in self.logs() {
            text += &format!("\n--- {}\n{}", path.display(), tandem_process::tail(&path, 30).join("\n"));
        }
        text
    }

    /// Every log file.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.layout.logs()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Asks and orders over the control socket.
    pub(crate) fn control(&self) -> Control {
        Control::new(&self.layout)
    }

    pub(crate) async fn status(&self) -> NodeStatus {
        self.control().status().await.unwrap()
    }

    pub(crate) async fn group(&self, name: &str) -> GroupStatus {
        let status = self.status().await;
        status.groups.into_iter().find(|g| g.group.group.as_str() == name).expect("the default fleet has this group")
    }

    /// What happens on the node from now on.
    pub(crate) async fn events(&self) -> Events {
        Box::pin(self.control().events().await.unwrap().1)
    }

    /// Waits until something has happened.
    pub(crate) async fn wait_for(&self, events: &mut Events, wanted: impl Fn(&Event) -> bool) {
        let found = tokio::time::timeout(LIMIT, async {
            while let Some(event) = events.next().await {
                if wanted(&event) {
                    return true;
                }
            }
            false
        });
        assert_eq!(found.await, Ok(true), "what was waited for did not happen\n{}", self.said());
    }

    /// Waits until a group runs again and is ready, as another process than `before`.
    pub(crate) async fn anew(&self, events: &mut Events, name: &str, before: Option<u32>) {
        self.wait_for(events, |event| {
            let Happening::Group(group) = &event.what else { return false };
            let up = matches!(group.state, GroupState::Ready | GroupState::Degraded);
            group.group.group.as_str() == name && up && group.pid != before
        })
        .await;
    }

    /// What a group says of its health.
    pub(crate) async fn health(&self, name: &str) -> serde_json::Value {
        let port = self.group(name).await.port;
        let answer = get(([127, 0, 0, 1], port).into(), "/health", LIMIT).await.unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The engine of the group that pays for models: its process, once it has one that is ready.
    pub(crate) async fn engine(&self) -> u32 {
        let end = Instant::now() + LIMIT;
        loop {
            let health = self.health("coordination").await;
            let ready = health["engines"].as_array().unwrap().iter().find(|engine| engine["state"] == "ready");
            if let Some(pid) = ready.and_then(|engine| engine["pid"].as_u64()) {
                return u32::try_from(pid).unwrap();
            }
            assert!(Instant::now() < end, "no engine came up: {health}\n{}", self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Calls a group as the command line does.
    pub(crate) async fn client(&self, group: &str) -> Client {
        let port = self.group(group).await.port;
        Client::new(Channel::network(), format!("http://127.0.0.1:{port}").parse().unwrap())
    }

    /// Begins a turn.
    pub(crate) async fn submit(&self, text: &str, session: &str) -> Result<Turn, Fault> {
        let request = SubmitRequest {
            idempotency_key: uuid::Uuid::new_v4().as_bytes().to_vec(),
            user_id: "owner".into(),
            session_id: session.into(),
            modality: Modality::MODALITY_TEXT.into(),
            text: text.into(),
            channel: "cli".into(),
            ..Default::default()
        };
        let client = self.client("coordination").await;
        let stream = client.server_stream(rpc::coordinator::SUBMIT, request, &Call::from_door("cli")).await?;
        Ok(Turn { stream, seen: Vec::new() })
    }

    /// One whole turn.
    pub(crate) async fn turn(&self, text: &str, session: &str) -> Final {
        let turn = self.submit(text, session).await.unwrap();
        turn.finish().await.unwrap_or_else(|fault| panic!("{fault:?}\n{}", self.said()))
    }

    /// Runs a command of `tandem` on this fleet's data directory.
    pub(crate) fn tandem(&self, args: &[&str]) -> Output {
        let data = self.layout.data().to_str().unwrap();
        tandem().args(["--data", data]).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// The same without blocking the test's thread.
    pub(crate) fn spawn_tandem(&self, args: &[&str]) -> std::process::Child {
        let data = self.layout.data().to_str().unwrap();
        let mut command = tandem();
        command.args(["--data", data]).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The fleet file.
    pub(crate) fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }

    /// Where the page is.
    pub(crate) fn page(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.ports.page()).into()
    }

    /// Waits for the end of the node.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + LIMIT;
        let node = self.node.as_mut().unwrap();
        loop {
            if let Some(status) = node.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the node did not end");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends the node at once, so that its groups are left behind.
    pub(crate) fn kill_node(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let asked = kill(Pid::from_raw(i32::try_from(node.id()).unwrap()), Signal::SIGTERM);
            let end = Instant::now() + LIMIT;
            while asked.is_ok() && matches!(node.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(LOOK);
            }
            // By now it has ended, or hangs.
            drop(node.kill());
            drop(node.wait());
        }
        for orphan in orphans(&self.layout) {
            // It may have ended by itself.
            let _ = nix::sys::signal::killpg(Pid::from_raw(i32::try_from(orphan.pid).unwrap()), Signal::SIGKILL);
        }
    }
}

/// A turn under way.
pub(crate) struct Turn {
    stream: FaultStream<tandem_contract::pb::tandem::coordinator::v1::SubmitResponse>,
    seen: Vec<TurnEvent>,
}

impl Turn {
    /// The next event; none when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Result<TurnEvent, Fault>> {
        let next = tokio::time::timeout(LIMIT, self.stream.next()).await.expect("the turn hangs");
        let event = next?.map(|response| response.event.into_option().unwrap());
        self.seen.extend(event.as_ref().ok().cloned());
        Some(event)
    }

    /// Waits until the answer has begun.
    pub(crate) async fn first_words(&mut self) {
        loop {
            let event = self.next().await.expect("the turn ended without a word").unwrap();
            match event.event {
                Some(Part::Delta(delta)) if !delta.text.is_empty() => return,
                Some(Part::Final(_) | Part::Error(_)) => panic!("the turn ended without a word: {:?}", self.seen),
                _ => {}
            }
        }
    }

    /// Goes on to the end: the answer, or what went wrong. A turn ends exactly once.
    pub(crate) async fn finish(mut self) -> Result<Final, Fault> {
        loop {
            let Some(event) = self.next().await else { panic!("the turn has no end: {:?}", self.seen) };
            let outcome = match event?.event {
                Some(Part::Final(answer)) => Ok(*answer),
                Some(Part::Error(error)) => Err(tandem_contract::fault_from_info(&error)),
                _ => continue,
            };
            assert!(self.next().await.is_none(), "something came after the end");
            return outcome;
        }
    }

    /// What the first event said.
    pub(crate) fn accepted(&self) -> &tandem_contract::pb::tandem::coordinator::v1::Accepted {
        match self.seen.first().and_then(|event| event.event.as_ref()) {
            Some(Part::Accepted(accepted)) => accepted,
            other => panic!("a turn begins with accepted: {other:?}"),
        }
    }
}

/// Has a process stand still.
pub(crate) fn stop(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGSTOP).unwrap();
}

/// Ends a process by force.
pub(crate) fn kill_9(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Whether a process runs.
pub(crate) fn runs(pid: u32) -> bool {
    tandem_process::usage(pid).is_some()
}
