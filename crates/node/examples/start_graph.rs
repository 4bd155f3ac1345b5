//! Benchmark: starts stub groups and says how long it took, beside what their node had foretold.
//!
//! As a rule 25 with the dependencies of a real assistant: each stub is ready 500 ms after its start, the longest chain has
//! seven, so nothing can be faster than 3.5 s. `start_graph random COUNT SEED RUNS` starts a random graph, RUNS times on one
//! data folder, each stub with a delay of its own. Printed as one JSON object a run, for `bench/start.py`. The same program
//! is the stub, `start_graph stub PORT DELAY_MS`, and what asks one whether it is ready where nothing else is at hand, as
//! in a container: `start_graph probe PORT`.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tandem_node::{DataLock, GroupSpec, Happening, Holder, Launch, Layout, Limits, Node, NodeConfig, Processes};
use tandem_types::{GroupId, GroupName};

const DELAY_MS: u64 = 500;
const FIRST_PORT: u16 = 21_080;
const DELAY: &str = "DELAY_MS";

/// Service to what it waits for.
const GRAPH: &[(&str, &[&str])] = &[
    ("service_registry", &[]),
    ("system_digital_twin", &["service_registry"]),
    ("request_coordinator", &["system_digital_twin"]),
    ("model_manager_suite", &["request_coordinator"]),
    ("vram_optimizer", &["model_manager_suite"]),
    ("observability_hub", &[]),
    ("memory_client", &["system_digital_twin"]),
    ("session_memory", &["memory_client"]),
    ("knowledge_base", &["memory_client"]),
    ("nlu_agent", &["vram_optimizer", "session_memory", "knowledge_base"]),
    ("dialogue_agent", &["vram_optimizer", "session_memory"]),
    ("emotion_engine", &["nlu_agent"]),
    ("mood_tracker", &["nlu_agent"]),
    ("chain_of_thought", &["vram_optimizer"]),
    ("got_tot", &["vram_optimizer"]),
    ("cognitive_model", &["vram_optimizer"]),
    ("learning_manager", &["vram_optimizer"]),
    ("local_fine_tuner", &["vram_optimizer"]),
    ("face_recognition", &["vram_optimizer"]),
    ("stt_service", &["vram_optimizer"]),
    ("tts_service", &["vram_optimizer"]),
    ("audio_pipeline", &["stt_service", "tts_service"]),
    ("code_generator", &["system_digital_twin"]),
    ("executor", &["system_digital_twin"]),
    ("predictive_health", &["observability_hub"]),
];

/// A stub and what it waits for, by places in the list.
struct Job {
    name: String,
    needs: Vec<usize>,
    delay_ms: u64,
}

fn fixed() -> Vec<Job> {
    let place = |name: &&str| GRAPH.iter().position(|(n, _)| n == name).unwrap();
    let job = |(name, needs): &(&str, &[&str])| Job {
        name: (*name).to_owned(),
        needs: needs.iter().map(place).collect(),
        delay_ms: DELAY_MS,
    };
    GRAPH.iter().map(job).collect()
}

/// Each waits for up to three of the twenty before it, so that chains are long, and takes 20 to 500 ms.
fn random(count: usize, seed: u64) -> Vec<Job> {
    let mut chance = StdRng::seed_from_u64(seed);
    let job = |at: usize| {
        let most = at.min(chance.random_range(0..=3));
        let needs = (0..most).map(|_| chance.random_range(at.saturating_sub(20)..at)).collect::<BTreeSet<_>>();
        Job { name: format!("stub_{at}"), needs: needs.into_iter().collect(), delay_ms: chance.random_range(20..=500) }
    };
    (0..count).map(job).collect()
}

/// Milliseconds of the longest chain: nothing can be faster.
fn critical_path(jobs: &[Job]) -> u64 {
    let mut ready: Vec<u64> = Vec::new();
    for job in jobs {
        let from = job.needs.iter().map(|need| ready[*need]).max().unwrap_or(0);
        ready.push(from + job.delay_ms);
    }
    ready.into_iter().max().unwrap_or(0)
}

/// Answers `/health` and says READY after its delay.
fn stub(port: u16, delay: Duration) {
    let began = Instant::now();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(delay.saturating_sub(began.elapsed()));
        tandem_process::notify(&[("READY", "1")]).unwrap();
    });
    for socket in listener.incoming() {
        let Ok(mut socket) = socket else { continue };
        let ready = began.elapsed() >= delay;
        let status = if ready { "200 OK" } else { "503 Service Unavailable" };
        // A prober that hung up early is its own affair.
        let (Ok(_) | Err(_)) = socket.read(&mut [0; 512]);
        let (Ok(()) | Err(_)) = write!(socket, "HTTP/1.0 {status}\r\n\r\n{{\"state\":\"ready\",\"cause\":\"\"}}\n");
    }
}

/// Whether the stub on this port is ready.
fn probe(port: u16) -> bool {
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut socket| {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200 "))
}

fn specs(jobs: &[Job]) -> Vec<GroupSpec> {
    let name = |at: usize| jobs[at].name.parse::<GroupName>().unwrap();
    (0..jobs.len())
        .zip(FIRST_PORT..)
        .map(|(at, port)| GroupSpec {
            id: GroupId::new("bench".parse().unwrap(), name(at)),
            needs: jobs[at].needs.iter().map(|need| name(*need)).collect(),
            waits_for: vec![],
            after: vec![],
            built: true,
            contract: SocketAddr::from(([127, 0, 0, 1], port)),
            scrape: SocketAddr::from(([127, 0, 0, 1], port)),
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            // Carries the delay to `launch`.
            env: BTreeMap::from([(DELAY.to_owned(), jobs[at].delay_ms.to_string())]),
        })
        .collect()
}

fn launch(program: PathBuf, group: &GroupSpec) -> Launch {
    let args = vec!["stub".into(), group.contract.port().to_string().into(), group.env[DELAY].clone().into()];
    Launch { program, args, env: BTreeMap::new(), reads: String::new() }
}

async fn bench(jobs: Vec<Job>, runs: usize) {
    let specs = specs(&jobs);
    let data = tempfile::tempdir().unwrap();
    let layout = Layout::new(data.path().to_owned(), None).unwrap();
    layout.make().unwrap();
    for _ in 0..runs {
        start(&jobs, &specs, &layout).await;
    }
}

async fn start(jobs: &[Job], specs: &[GroupSpec], layout: &Layout) {
    for spec in specs {
        // A stub that is left over from a run that was cut off would be measured as a service that comes late.
        drop(TcpListener::bind(spec.contract).unwrap_or_else(|e| panic!("{} is in the way: {e}", spec.contract)));
    }
    let me = Holder {
        pid: std::process::id(),
        node: "bench".parse().unwrap(),
        fleet: "bench".into(),
        since: SystemTime::now().into(),
    };
    let lock = DataLock::take(&layout.lock(), &me).unwrap();
    let config = NodeConfig {
        node: "bench".parse().unwrap(),
        fleet: "bench".into(),
        plan_hash: "bench".into(),
        layout: layout.clone(),
        groups: specs.to_vec(),
        taken: vec![],
        start_wait: Duration::from_secs(60),
        peer_wait: Duration::from_secs(60),
        drain: Duration::from_secs(2),
        link: None,
    };
    let program = std::env::current_exe().unwrap();
    let runner = Processes::new(layout.clone(), Duration::from_secs(5), move |group| launch(program.clone(), group));
    let began = Instant::now();
    let node = Node::start(config, lock, Arc::new(runner)).await.unwrap();
    let handle = node.handle();
    let (status, mut events) = handle.follow();
    let mut settled = status.settled;
    while !settled {
        settled = match events.recv().await {
            Ok(event) => matches!(event.what, Happening::Settled { .. }),
            Err(_) => handle.status().settled,
        };
    }
    let took = began.elapsed();
    let status = handle.status();
    let critical = Duration::from_millis(critical_path(jobs));
    let rss = status.rss_bytes.unwrap_or_default();
    handle.down().await;
    node.wait().await.unwrap();
    println!(
        "{}",
        json!({
            "services": jobs.len(),
            "critical_path_s": critical.as_secs_f64(),
            "all_ready_s": took.as_secs_f64(),
            "ratio": took.div_duration_f64(critical),
            "node_rss_mib": rss / (1 << 20),
            "foretold": status.forecast,
        })
    );
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args[at].parse::<usize>().unwrap();
    match args.get(1).map(String::as_str) {
        Some("probe") => return if probe(args[2].parse().unwrap()) { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        Some("stub") => stub(args[2].parse().unwrap(), Duration::from_millis(args[3].parse().unwrap())),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(
            match args.get(1).map(String::as_str) {
                Some("random") => bench(random(number(2), number(3) as u64), number(4)),
                _ => bench(fixed(), 1),
            },
        ),
    }
    ExitCode::SUCCESS
}
