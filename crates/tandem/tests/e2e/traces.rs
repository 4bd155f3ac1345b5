//! Spans of a turn as a collector gets them from the processes it went through. No model is needed: a turn that ends
//! with `no_model` walks the same path.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event as Part;
use tandem_contract::pb::tandem::coordinator::v1::{Modality, SubmitRequest};
use tandem_contract::{Call, Channel, Client, fault_from_info, rpc};
use tandem_node::get;
use tandem_types::reason;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{GROUPS, LIMIT, LOOK, Ports, tandem};

/// A span with the process it comes from.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
}

/// Takes OTLP over HTTP, as a collector does.
struct Collector {
    address: String,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = bodies.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(take(connection, kept.clone()));
            }
        });
        Self { address, bodies }
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for body in &*self.bodies.lock().unwrap() {
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            for resource in request.resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                let name = attributes.into_iter().find(|a| a.key == "service.name").and_then(|a| a.value?.value);
                let Some(Value::StringValue(service)) = name else { panic!("a service without a name") };
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| Span {
                    service: service.clone(),
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                }));
            }
        }
        spans
    }
}

/// Reads requests from one connection until it ends.
async fn take(connection: TcpStream, bodies: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut connection = BufReader::new(connection);
    loop {
        let (mut length, mut path) = (0, String::new());
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            } else if line.is_empty() {
                break;
            }
        }
        assert_eq!(path, "/v1/traces");
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.unwrap();
        bodies.lock().unwrap().push(body);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        connection.write_all(answer).await.unwrap();
    }
}

/// A group's process, ended with the test.
struct Group(Child);

impl Group {
    fn end(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_turn_is_one_trace_across_its_processes() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (ports, file) = (Ports::free(), folder.path().join("fleet.toml"));
    std::fs::write(&file, ports.fleet("")).unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let said = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    // The order of the ports is that of the default fleet.
    let groups = ["infra_core", "coordination", "observability", "memory_stack", "language_stack"];
    assert!(groups.len() <= usize::from(GROUPS));
    let mut running: Vec<Group> = groups
        .iter()
        .map(|group| {
            let mut command = tandem();
            command.args(["serve", &format!("solo/{group}"), "--fleet-name", "test", "--fleet"]).arg(&file);
            command.arg("--data").arg(folder.path().join("data"));
            command.env("TANDEM_CACHE", folder.path().join("no models here"));
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address);
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().unwrap());
            Group(command.spawn().unwrap())
        })
        .collect();
    let end = Instant::now() + LIMIT;
    for (place, group) in groups.iter().enumerate() {
        let port = ports.contract + u16::try_from(place).unwrap();
        loop {
            match get(([127, 0, 0, 1], port).into(), "/readyz", LIMIT).await {
                Ok(answer) if answer.status == 200 => break,
                _ => assert!(Instant::now() < end, "{group} is not ready\n{}", said()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    let base = format!("http://127.0.0.1:{}", ports.contract + 1).parse().unwrap();
    let request = SubmitRequest {
        idempotency_key: uuid::Uuid::new_v4().as_bytes().to_vec(),
        user_id: "owner".into(),
        session_id: "traced".into(),
        modality: Modality::MODALITY_TEXT.into(),
        text: "Remember the word zephyranthes.".into(),
        channel: "cli".into(),
        ..Default::default()
    };
    let client = Client::new(Channel::network(), base);
    let stream = client.server_stream(rpc::coordinator::SUBMIT, request, &Call::from_door("cli")).await.unwrap();
    let events: Vec<_> = stream.map(|event| event.unwrap().event.into_option().unwrap().event.unwrap()).collect().await;
    let Some(Part::Accepted(accepted)) = events.first() else { panic!("{events:?}") };
    let Some(Part::Error(error)) = events.last() else { panic!("a turn without a model was answered: {events:?}") };
    assert_eq!(fault_from_info(error).reason, reason::NO_MODEL, "{error:?}");
    // What is queued when a process is told to end is exported before it does.
    running.iter_mut().rev().for_each(Group::end);
    for (group, name) in running.iter_mut().zip(groups) {
        while group.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{name} did not end\n{}", said());
            tokio::time::sleep(LOOK).await;
        }
    }

    let spans = collector.spans();
    let trace = |span: &Span| span.trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let traces: BTreeSet<String> = spans.iter().map(trace).collect();
    assert_eq!(traces, [accepted.turn_id.clone()].into(), "{spans:?}");
    let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
    for service in ["solo/coordination", "solo/memory_stack", "solo/language_stack"] {
        assert!(services.contains(service), "{service} took no part in {spans:?}");
    }
    let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{roots:?}");
    assert_eq!(roots[0].name, "tandem.coordinator.v1.Coordinator/Submit");
    let ids: BTreeSet<&[u8]> = spans.iter().map(|span| &span.id[..]).collect();
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        assert!(ids.contains(&span.parent[..]), "nobody sent the parent of {span:?}");
    }
    for body in &*collector.bodies.lock().unwrap() {
        assert!(!body.windows(12).any(|word| word == b"zephyranthes"), "a span holds a person's words");
    }
}
