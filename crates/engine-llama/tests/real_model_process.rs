//! The engine process with a real model: how it starts, serves, ends and fails. Needs SmolLM2-135M, from
//! `TANDEM_TEST_MODEL` or the model store, and fails with the way to get it when it is not there.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_contract::pb::tandem::model::v1 as pb;
use tandem_contract::rpc::engine;
use tandem_contract::{Call, Channel, Client};
use tandem_engine::catalogue::Store;
use tandem_types::{Code, reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::process::{Child, Command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tandem-llama");
/// Longer than any of this takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn model_file() -> PathBuf {
    if let Some(path) = std::env::var_os("TANDEM_TEST_MODEL") {
        return path.into();
    }
    Store::open().and_then(|store| store.path_of("smollm2-135m")).unwrap_or_else(|fault| {
        panic!("this test runs a real model: {fault}; `tandem models pull smollm2-135m`, or set TANDEM_TEST_MODEL")
    })
}

fn arguments(model: &Path) -> Vec<String> {
    let model = model.to_str().unwrap();
    let line =
        format!("--model {model} --name smollm2-135m --role llm.tiny --lease-bytes 900000000 --ctx 512 --slots 2");
    line.split(' ').map(str::to_owned).collect()
}

/// A running engine and what it has said.
struct Process {
    child: Child,
    log: PathBuf,
    endpoint: String,
    measured: u64,
    _dir: tempfile::TempDir,
}

impl Process {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (socket, log) = (dir.path().join("notify"), dir.path().join("log"));
        let notify = UnixDatagram::bind(&socket).unwrap();
        let child = Command::new(PROGRAM)
            .args(arguments(&model_file()))
            .env("NOTIFY_SOCKET", &socket)
            .env("TANDEM_LOG", "debug,llama-cpp-2=debug")
            .stdout(std::fs::File::create(dir.path().join("stdout")).unwrap())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut buffer = [0; 1024];
        let length = tokio::time::timeout(PATIENCE, notify.recv(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("not ready: {}", std::fs::read_to_string(&log).unwrap()))
            .unwrap();
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        assert_eq!(field("READY=").as_deref(), Some("1"), "{message}");
        let measured = field("X_TANDEM_MEASURED_BYTES=").unwrap().parse().unwrap();
        Self { child, log, endpoint: field("X_TANDEM_ENDPOINT=").unwrap(), measured, _dir: dir }
    }

    fn client(&self) -> Client {
        Client::new(Channel::network(), self.endpoint.parse().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    async fn end(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it never ended").unwrap()
    }

    async fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.endpoint.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")).await
    }
}

fn ask(text: &str, max_tokens: u32) -> pb::GenerateRequest {
    let message = pb::Message { role: "user".into(), content: text.into(), ..Default::default() };
    let sampling = pb::Sampling { temperature: Some(0.0), ..Default::default() };
    pb::GenerateRequest { messages: vec![message], sampling: sampling.into(), max_tokens, ..Default::default() }
}

#[tokio::test]
async fn real_model_process_serves_and_keeps_what_is_said_out_of_its_log() {
    let mut process = Process::start().await;
    let (client, call) = (process.client(), Call::from_door("test"));
    let info = client.unary(engine::GET_INFO, pb::GetInfoRequest::default(), &call).await.unwrap();
    assert_eq!((info.model.as_str(), info.context_tokens, info.slots), ("smollm2-135m", 512, 2));
    assert!(info.has_chat_template && info.last_answer_us > 0 && process.measured > 100 << 20);

    let answer = client.server_stream(engine::GENERATE, ask("Describe a xylophone.", 12), &call).await.unwrap();
    let pieces: Vec<_> = answer.map(Result::unwrap).collect().await;
    let said: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert!(said.len() > 10, "{said:?}");

    let body = r#"{"text":"Zanzibar"}"#;
    let counted = process
        .http(&format!(
            "POST /tandem.model.v1.Engine/CountTokens HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(counted.starts_with("HTTP/1.1 200") && counted.contains(r#""tokens":"#), "{counted}");
    assert!(process.get("/livez").await.starts_with("HTTP/1.1 200"));
    assert!(process.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(process.get("/health").await.contains(r#""capable":true"#));
    let metrics = process.get("/metrics").await;
    assert!(metrics.contains(r#"tandem_engine_tokens_total{kind="written"} 14"#), "{metrics}");
    let unserved = process.http("POST /tandem.model.v1.Engine/Embed HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}").await;
    assert!(unserved.contains("unimplemented"), "{unserved}");

    process.signal(Signal::SIGTERM);
    assert_eq!(process.end().await.code(), Some(0));
    let log = std::fs::read_to_string(&process.log).unwrap();
    assert!(log.contains("llama-cpp-2") && log.contains("ready"), "nothing was logged");
    for word in ["xylophone", "Zanzibar", &said[..10]] {
        assert!(!log.contains(word), "{word:?} is in the log");
    }
    assert_eq!(std::fs::metadata(process.log.with_file_name("stdout")).unwrap().len(), 0);
}

#[tokio::test]
async fn real_model_process_finishes_its_answer_before_it_ends() {
    let mut process = Process::start().await;
    let (client, call) = (process.client(), Call::from_door("test"));
    let mut answer = client.server_stream(engine::GENERATE, ask("Tell a long story.", 100), &call).await.unwrap();
    assert!(!answer.next().await.unwrap().unwrap().text.is_empty());
    process.signal(Signal::SIGTERM);
    let fault = loop {
        // The signal takes a moment; until then requests are served.
        let mut more = client.server_stream(engine::GENERATE, ask("More?", 1), &call).await.unwrap();
        if let Err(fault) = more.next().await.unwrap() {
            break fault;
        }
    };
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::DRAINING));
    let rest: Vec<_> = answer.map(Result::unwrap).collect().await;
    assert!(rest.last().unwrap().usage.is_set(), "the answer was cut off");
    assert_eq!(process.end().await.code(), Some(0));
}

#[tokio::test]
async fn real_model_process_that_is_killed_ends_its_answers_with_unavailable() {
    let mut process = Process::start().await;
    let call = Call::from_door("test");
    let stream = process.client().server_stream(engine::GENERATE, ask("Tell a long story.", 300), &call).await;
    let mut answer = stream.unwrap();
    assert!(!answer.next().await.unwrap().unwrap().text.is_empty());
    process.signal(Signal::SIGKILL);
    process.end().await;
    let fault = loop {
        match tokio::time::timeout(PATIENCE, answer.next()).await.expect("the stream hangs").unwrap() {
            Ok(_) => {}
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.code, Code::Unavailable, "{fault:?}");
}

#[tokio::test]
async fn real_model_process_ends_with_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let notify = UnixDatagram::bind(&socket).unwrap();
    let script = format!("{PROGRAM} {} & echo $!; wait", arguments(&model_file()).join(" "));
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &script])
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = shell.stdout.take().unwrap();
    let mut line = [0; 32];
    let length = stdout.read(&mut line).await.unwrap();
    let pid: i32 = std::str::from_utf8(&line[..length]).unwrap().trim().parse().unwrap();
    let mut message = [0; 1024];
    tokio::time::timeout(PATIENCE, notify.recv(&mut message)).await.expect("not ready").unwrap();

    shell.kill().await.unwrap();
    // The engine holds the other end of this pipe; it closes when the process is gone.
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stdout.read_to_end(&mut rest)).await.expect("the engine lives on").unwrap();
    assert!(kill(Pid::from_raw(pid), None).is_err() || is_zombie(pid));
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn real_model_process_that_cannot_start_says_why_in_code_and_words() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.gguf");
    std::fs::write(&page, b"<html>").unwrap();
    let absent = dir.path().join("absent.gguf");
    let small: Vec<String> = arguments(&model_file()).into_iter().map(|a| a.replace("900000000", "1000")).collect();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut busy = arguments(&model_file());
    busy.extend(["--listen".into(), taken.local_addr().unwrap().to_string()]);
    for (arguments, code, said) in [
        (arguments(&absent), 3, absent.to_str().unwrap()),
        (arguments(&page), 4, "is not a GGUF file"),
        (small, 5, "the lease is 1000 bytes"),
        (busy, 6, "cannot listen at"),
        (vec!["--model".into()], 2, "a value is required"),
    ] {
        let output = Command::new(PROGRAM).args(&arguments).output().await.unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words}");
        assert!(words.contains(said), "{words}");
    }
}
