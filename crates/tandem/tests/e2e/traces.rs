//! Spans of a turn as a collector gets them from the processes it went through, from the door to the engine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Fleet, MODEL};

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

/// Sends one request and reads its whole answer.
async fn post(address: std::net::SocketAddr, path: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_turn_is_one_trace_from_the_door_to_the_engine() {
    let collector = Collector::start().await;
    let mut fleet = Fleet::prepare("").await;
    fleet.set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address);
    fleet.start(&[]).await;
    let body = r#"{"model": "llm.fast", "max_tokens": 16, "messages": [{"role": "user", "content": "What is a zephyranthes?"}]}"#;
    let answer = post(fleet.page(), "/v1/chat/completions", body).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}\n{}", fleet.said());
    let turn = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").trim().to_owned();
    // A client of that kind keeps its conversation itself; one that is remembered goes through the memory as well.
    let mut remembered = fleet.submit("Say zephyranthes.", "traced").await.unwrap();
    remembered.first_words().await;
    let second = remembered.accepted().turn_id.clone();
    remembered.finish().await.unwrap();
    // What is queued when a process is told to end is exported before it does.
    let down = fleet.spawn_tandem(&["down"]);
    fleet.ended().await;
    let down = down.wait_with_output().unwrap();
    assert!(down.status.success(), "{down:?}");

    let spans = collector.spans();
    let trace = |span: &Span| span.trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let traces: BTreeSet<String> = spans.iter().map(trace).collect();
    assert_eq!(traces, [turn.clone(), second.clone()].into(), "{spans:?}");
    let engine = format!("solo/coordination/{MODEL}");
    for (turn, root, name, between) in [
        (turn, "solo/web_interface", "v1/chat/completions", &["solo/coordination", "solo/language_stack", &engine][..]),
        (
            second,
            "solo/coordination",
            "tandem.coordinator.v1.Coordinator/Submit",
            &["solo/memory_stack", "solo/language_stack", &engine][..],
        ),
    ] {
        let spans: Vec<&Span> = spans.iter().filter(|span| trace(span) == turn).collect();
        let (roots, others): (Vec<&Span>, Vec<&Span>) = spans.iter().partition(|span| span.parent.is_empty());
        let roots: Vec<_> = roots.iter().map(|span| (span.service.as_str(), span.name.as_str())).collect();
        assert_eq!(roots, [(root, name)]);
        for service in between {
            assert!(others.iter().any(|span| span.service == *service), "{service} took no part in {spans:?}");
        }
        for span in others {
            assert!(spans.iter().any(|other| other.id == span.parent), "nobody sent the parent of {span:?}");
        }
    }
    for body in &*collector.bodies.lock().unwrap() {
        assert!(!body.windows(12).any(|word| word == b"zephyranthes"), "a span holds a person's words");
    }
}
