//! Benchmark: starts 25 stub groups with the dependencies of a real assistant and says how long it took.
//!
//! Each stub is ready 500 ms after its start, the longest chain has seven, so nothing can be faster than 3.5 s. Printed
//! as one JSON object, for `bench/start.py`. The same program is the stub, `start_graph stub PORT DELAY_MS`, and what asks
//! one whether it is ready where nothing else is at hand, as in a container: `start_graph probe PORT`.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tandem_node::{DataLock, GroupSpec, Happening, Holder, Launch, Layout, Limits, Node, NodeConfig, Processes};
use tandem_types::{GroupId, GroupName};

const DELAY_MS: u64 = 500;
const FIRST_PORT: u16 = 21_080;

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

fn depth(name: &str) -> u64 {
    let (_, needs) = GRAPH.iter().find(|(n, _)| *n == name).unwrap();
    1 + needs.iter().map(|need| depth(need)).max().unwrap_or(0)
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

fn specs() -> Vec<GroupSpec> {
    let names = |names: &[&str]| names.iter().map(|n| n.parse::<GroupName>().unwrap()).collect();
    GRAPH
        .iter()
        .zip(FIRST_PORT..)
        .map(|((name, needs), port)| GroupSpec {
            id: GroupId::new("bench".parse().unwrap(), name.parse().unwrap()),
            needs: names(needs),
            waits_for: vec![],
            after: vec![],
            built: true,
            contract: SocketAddr::from(([127, 0, 0, 1], port)),
            scrape: SocketAddr::from(([127, 0, 0, 1], port)),
            limits: Limits { ram_mib: None, cpu: None, cpu_weight: 100, enforcement: "not enforced".into() },
            env: BTreeMap::new(),
        })
        .collect()
}

fn launch(program: PathBuf, group: &GroupSpec) -> Launch {
    let args = vec!["stub".into(), group.contract.port().to_string().into(), DELAY_MS.to_string().into()];
    Launch { program, args, env: BTreeMap::new(), reads: String::new() }
}

async fn bench() {
    for spec in specs() {
        // A stub that is left over from a run that was cut off would be measured as a service that comes late.
        drop(TcpListener::bind(spec.contract).unwrap_or_else(|e| panic!("{} is in the way: {e}", spec.contract)));
    }
    let data = tempfile::tempdir().unwrap();
    let layout = Layout::new(data.path().to_owned(), None).unwrap();
    layout.make().unwrap();
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
        groups: specs(),
        taken: vec![],
        start_wait: Duration::from_secs(60),
        peer_wait: Duration::from_secs(60),
        drain: Duration::from_secs(2),
        link: None,
    };
    let program = std::env::current_exe().unwrap();
    let runner = Processes::new(layout, Duration::from_secs(5), move |group| launch(program.clone(), group));
    let began = Instant::now();
    let node = Node::start(config, lock, Arc::new(runner)).await.unwrap();
    let handle = node.handle();
    let (status, mut events) = handle.follow();
    let mut settled = status.settled;
    while !settled {
        settled = matches!(events.recv().await.unwrap().what, Happening::Settled { .. });
    }
    let took = began.elapsed().as_secs_f64();
    let critical = GRAPH.iter().map(|(name, _)| depth(name)).max().unwrap() * DELAY_MS;
    #[allow(clippy::cast_precision_loss)]
    let critical = critical as f64 / 1000.0;
    let rss = handle.status().rss_bytes.unwrap_or_default();
    handle.down().await;
    node.wait().await.unwrap();
    println!(
        "{{\"services\": {}, \"critical_path_s\": {critical}, \"all_ready_s\": {took:.3}, \"ratio\": {:.3}, \
         \"node_rss_mib\": {:.1}}}",
        GRAPH.len(),
        took / critical,
        rss as f64 / 1024.0 / 1024.0,
    );
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("probe") => return if probe(args[2].parse().unwrap()) { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        Some("stub") => stub(args[2].parse().unwrap(), Duration::from_millis(args[3].parse().unwrap())),
        _ => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(bench()),
    }
    ExitCode::SUCCESS
}
