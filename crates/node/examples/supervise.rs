//! Benchmark: what the node does when stub groups hang, die, stand still, lose packets, or end again and again, and what
//! it costs while they do none of that.
//!
//! `supervise hang beats`, `hang silent`, `kill`, `pause SECONDS`, `loss SECONDS`, `storm SECONDS`, `idle SECONDS`: each
//! prints one JSON object, for `bench/supervise.py`. The same program is the stub: `supervise stub PORT KIND`.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tandem_node::{
    DataLock, EndKind, Event, GroupSpec, GroupState, Happening, Holder, Launch, Layout, Limits, Node, NodeConfig,
    NodeHandle, Processes, ends,
};
use tandem_process::{Heart, notify};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// Groups that something is done to: as many as a node restarts in ten minutes.
const GROUPS: u16 = 20;
const FIRST_PORT: u16 = 23_080;
/// How long a stub takes until it is ready.
const READY: Duration = Duration::from_millis(200);
/// Time between two probes of a group that is well: a hang comes anywhere in it.
const PERIOD: Duration = Duration::from_secs(30);
/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Answers `/health`, on its order no longer; says READY, and with `beats` that it lives.
fn stub(port: u16, kind: &str) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let hangs = Arc::new(AtomicBool::new(false));
    let heard = hangs.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let hangs = heard.clone();
            std::thread::spawn(move || answer(socket, &hangs));
        }
    });
    std::thread::sleep(READY);
    if kind == "crash" {
        std::process::exit(7);
    }
    notify(&[("READY", "1")]).unwrap();
    let heart = Heart::of_environment().unwrap().unwrap();
    loop {
        if kind == "beats" && !hangs.load(Ordering::Relaxed) {
            heart.beat();
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn answer(mut socket: TcpStream, hangs: &AtomicBool) {
    let mut request = [0; 512];
    let read = socket.read(&mut request).unwrap_or(0);
    if request[..read].starts_with(b"GET /hang") {
        hangs.store(true, Ordering::Relaxed);
    }
    while hangs.load(Ordering::Relaxed) {
        std::thread::park();
    }
    // A prober that hung up early is its own affair.
    let (Ok(()) | Err(_)) = write!(socket, "HTTP/1.0 200 OK\r\n\r\n{{\"state\":\"ready\",\"cause\":\"\"}}\n");
}

/// A node that runs stubs of these kinds; `needs` says whether all others need the first.
struct Bench {
    node: Node,
    handle: NodeHandle,
    layout: Layout,
    _data: tempfile::TempDir,
}

impl Bench {
    async fn up(kinds: &[&str], needs: bool) -> Self {
        let data = tempfile::tempdir().unwrap();
        let layout = Layout::new(data.path().to_owned(), None).unwrap();
        layout.make().unwrap();
        let me = Holder { pid: 1, node: "bench".into(), fleet: "bench".into(), since: SystemTime::now().into() };
        let lock = DataLock::take(&layout.lock(), &me).unwrap();
        let spec = |(i, (kind, port)): (usize, (&&str, u16))| GroupSpec {
            id: format!("bench/g{i}").parse().unwrap(),
            needs: if needs && i > 0 { vec!["g0".parse().unwrap()] } else { vec![] },
            waits_for: vec![],
            after: vec![],
            built: true,
            contract: SocketAddr::from(([127, 0, 0, 1], port)),
            scrape: SocketAddr::from(([127, 0, 0, 1], port)),
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            env: BTreeMap::from([("KIND".to_owned(), (*kind).to_owned())]),
        };
        let config = NodeConfig {
            node: "bench".parse().unwrap(),
            fleet: "bench".into(),
            plan_hash: "bench".into(),
            layout: layout.clone(),
            groups: kinds.iter().zip(FIRST_PORT..).enumerate().map(spec).collect(),
            taken: vec![],
            start_wait: Duration::from_secs(5),
            peer_wait: Duration::ZERO,
            drain: Duration::from_secs(2),
            link: None,
        };
        let program = std::env::current_exe().unwrap();
        let launch = move |group: &GroupSpec| Launch {
            program: program.clone(),
            args: ["stub".to_owned(), group.contract.port().to_string(), group.env["KIND"].clone()]
                .map(Into::into)
                .into(),
            env: BTreeMap::new(),
            reads: String::new(),
        };
        let runner = Processes::new(layout.clone(), Duration::from_secs(1), launch);
        let node = Node::start(config, lock, Arc::new(runner)).await.unwrap();
        let handle = node.handle();
        let (status, mut events) = handle.follow();
        let mut settled = status.settled;
        while !settled {
            settled = matches!(events.recv().await, Ok(Event { what: Happening::Settled { .. }, .. }));
        }
        Self { node, handle, layout, _data: data }
    }

    async fn down(self) {
        self.handle.down().await;
        self.node.wait().await.unwrap();
    }

    fn pid(&self, group: usize) -> Pid {
        pid(&self.handle, group)
    }

    /// Restarts of all groups, and how many processes ended by themselves.
    fn restarts(&self) -> u32 {
        self.handle.status().groups.iter().map(|group| group.restarts).sum()
    }
}

fn pid(node: &NodeHandle, group: usize) -> Pid {
    Pid::from_raw(i32::try_from(node.status().groups[group].pid.unwrap()).unwrap())
}

fn milliseconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Median, 95th and 100th of a hundred parts, in milliseconds.
fn spread(mut spans: Vec<Duration>) -> Value {
    spans.sort_unstable();
    let at = |part: usize| milliseconds(spans[((spans.len() * part).div_ceil(100)).max(1) - 1]);
    json!({ "samples": spans.len(), "median_ms": at(50), "p95_ms": at(95), "max_ms": at(100) })
}

/// Waits until a group is in a state, as another process than before where that is wanted.
async fn until(events: &mut broadcast::Receiver<Event>, group: usize, state: GroupState, other_than: Option<u32>) {
    let name = format!("g{group}");
    let wait = async {
        loop {
            let Ok(event) = events.recv().await else { continue };
            let Happening::Group(group) = event.what else { continue };
            let other = other_than.is_none() || (group.pid.is_some() && group.pid != other_than);
            if group.group.group.as_str() == name && group.state == state && other {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("what is waited for does not come");
}

/// Every group hangs once, anywhere between two probes; until each is ready again.
async fn hang(kind: &str) -> Value {
    let bench = Bench::up(&vec![kind; GROUPS.into()], false).await;
    let mut tasks = JoinSet::new();
    for i in 0..usize::from(GROUPS) {
        let (handle, after) = (bench.handle.clone(), PERIOD.mul_f64(rand::random_range(0.0..1.0)));
        tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let before = handle.status().groups[i].pid;
            let (_, mut events) = handle.follow();
            let port = FIRST_PORT + u16::try_from(i).unwrap();
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket.write_all(b"GET /hang HTTP/1.0\r\n\r\n").unwrap();
            let began = Instant::now();
            until(&mut events, i, GroupState::Ready, before).await;
            began.elapsed()
        });
    }
    let healed = tasks.join_all().await;
    let kept = ends(&bench.layout);
    let hangs = kept.values().flatten().filter(|end| end.kind == EndKind::Hang).count();
    bench.down().await;
    json!({ "healed": spread(healed), "hangs_told_apart": hangs, "ready_ms": milliseconds(READY) })
}

/// Every group is killed once.
async fn killed() -> Value {
    let bench = Bench::up(&vec!["beats"; GROUPS.into()], false).await;
    let (mut noticed, mut healthy) = (vec![], vec![]);
    for i in 0..usize::from(GROUPS) {
        let (before, (_, mut events)) = (bench.handle.status().groups[i].pid, bench.handle.follow());
        let began = Instant::now();
        kill(bench.pid(i), Signal::SIGKILL).unwrap();
        until(&mut events, i, GroupState::BackingOff, None).await;
        noticed.push(began.elapsed());
        until(&mut events, i, GroupState::Ready, before).await;
        healthy.push(began.elapsed().saturating_sub(READY));
    }
    bench.down().await;
    json!({ "noticed": spread(noticed), "healthy_beyond_ready_time": spread(healthy), "ready_ms": milliseconds(READY) })
}

/// Half of the groups send heartbeats, half do not.
fn halves() -> Vec<&'static str> {
    (0..GROUPS).map(|i| if i % 2 == 0 { "beats" } else { "silent" }).collect()
}

/// Every group is stopped again and again, up to eight seconds each time.
async fn pause(seconds: u64) -> Value {
    let bench = Bench::up(&halves(), false).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tasks = JoinSet::new();
    for i in 0..usize::from(GROUPS) {
        let handle = bench.handle.clone();
        tasks.spawn(async move {
            let mut pauses = 0u32;
            while Instant::now() < end {
                let process = pid(&handle, i);
                kill(process, Signal::SIGSTOP).unwrap();
                tokio::time::sleep(Duration::from_millis(rand::random_range(500..=8_000))).await;
                kill(process, Signal::SIGCONT).unwrap();
                tokio::time::sleep(Duration::from_millis(rand::random_range(100..=4_000))).await;
                pauses += 1;
            }
            pauses
        });
    }
    let pauses: u32 = tasks.join_all().await.into_iter().sum();
    let restarts = bench.restarts();
    bench.down().await;
    json!({ "groups": GROUPS, "seconds": seconds, "pauses": pauses, "restarts": restarts })
}

/// Nothing is done; whoever starts this has made the network lose packets.
async fn loss(seconds: u64) -> Value {
    let bench = Bench::up(&halves(), false).await;
    let (_, mut events) = bench.handle.follow();
    let mut suspicions = 0u32;
    let watched = async {
        loop {
            if let Ok(Event { what: Happening::Group(group), .. }) = events.recv().await {
                suspicions += u32::from(group.state == GroupState::Suspect);
            }
        }
    };
    let over = tokio::time::timeout(Duration::from_secs(seconds), watched).await.is_err();
    let of = |rest: usize| -> u32 {
        let status = bench.handle.status();
        status.groups.iter().enumerate().filter(|(i, _)| i % 2 == rest).map(|(_, group)| group.restarts).sum()
    };
    let (beats, silent) = (of(0), of(1));
    bench.down().await;
    json!({ "groups": GROUPS, "seconds": seconds, "over": over, "suspicions": suspicions,
            "restarts_with_heartbeats": beats, "restarts_without": silent })
}

/// The first group ends again and again; 25 others need it.
async fn storm(seconds: u64) -> Value {
    let kinds: Vec<&str> = std::iter::once("crash").chain(std::iter::repeat_n("beats", 25)).collect();
    let bench = Bench::up(&kinds, true).await;
    let began: Vec<Option<u32>> = bench.handle.status().groups.iter().map(|group| group.pid).collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut forgiven = 0u32;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // A person who does not look tries again and again.
        if bench.handle.status().groups[0].state == GroupState::CrashLoop {
            bench.handle.clear(&"g0".parse().unwrap()).await.unwrap();
            forgiven += 1;
        }
    }
    let status = bench.handle.status();
    let same = status.groups.iter().zip(&began).skip(1).filter(|(group, pid)| group.pid == **pid).count();
    let starts = status.groups[0].restarts + 1;
    bench.down().await;
    json!({ "seconds": seconds, "starts_of_the_root": starts, "by_order": forgiven,
            "by_itself": starts - 1 - forgiven, "dependents_untouched": same,
            "state_of_the_root": status.groups[0].state, "reason": status.groups[0].reason })
}

/// 25 groups that send heartbeats, and nothing happens.
async fn idle(seconds: u64) -> Value {
    let bench = Bench::up(&["beats"; 25], false).await;
    let used = || tandem_process::usage(std::process::id()).unwrap();
    let before = used();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = used();
    bench.down().await;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand ticks")]
    // The kernel tells times in hundredths of a second (proc_pid_stat(5)).
    let percent = (after.cpu_ticks - before.cpu_ticks) as f64 / seconds as f64;
    json!({ "services": 25, "seconds": seconds, "cpu_percent_of_a_core": percent,
            "node_rss_mb": after.resident_bytes as f64 / 1e6 })
}

async fn bench(args: &[&str]) -> Value {
    let seconds = || args[1].parse().unwrap();
    match args[0] {
        "hang" => hang(args[1]).await,
        "kill" => killed().await,
        "pause" => pause(seconds()).await,
        "loss" => loss(seconds()).await,
        "storm" => storm(seconds()).await,
        "idle" => idle(seconds()).await,
        other => panic!("there is no benchmark `{other}`"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args[0] == "stub" {
        return stub(args[1].parse().unwrap(), args[2]);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{}", runtime.block_on(bench(&args)));
}
