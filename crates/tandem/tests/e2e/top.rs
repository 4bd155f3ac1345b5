//! `tandem top`: one picture for programs and files, and the live view on a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tandem_node::{GroupState, PeerState};

use crate::harness::{LIMIT, LOOK};
use crate::two_nodes::{Machine, Pair, good, said};

const ROWS: usize = 24;
const COLUMNS: usize = 80;

/// What a terminal would show, as far as `tandem top` uses one: text, places, and clearing all of it.
#[derive(Default)]
struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// Bytes of a sequence or a character that has not ended.
    open: Vec<u8>,
    /// Whether it was asked to show another picture than the shell's.
    is_apart: bool,
    is_cursor_shown: bool,
}

impl Screen {
    fn clear(&mut self) {
        self.cells = vec![vec![' '; COLUMNS]; ROWS];
    }

    fn take(&mut self, byte: u8) {
        self.open.push(byte);
        match self.open[..] {
            [0x1b] | [0x1b, b'['] => {}
            [0x1b, b'[', .., end] if end.is_ascii_alphabetic() => self.obey(),
            [0x1b, b'[', ..] => {}
            [0x1b, ..] => self.open.clear(),
            _ => {
                let Ok(text) = std::str::from_utf8(&self.open) else { return };
                if let Some(c) = text.chars().next().filter(|c| !c.is_control()) {
                    let (row, column) = self.at;
                    if let Some(cell) = self.cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                        *cell = c;
                    }
                    self.at.1 += 1;
                }
                self.open.clear();
            }
        }
    }

    fn obey(&mut self) {
        let sequence = String::from_utf8(std::mem::take(&mut self.open)).unwrap();
        let (inner, end) = sequence[2..].split_at(sequence.len() - 3);
        match (inner, end) {
            ("?1049", "h" | "l") => self.is_apart = end == "h",
            ("?25", "h" | "l") => self.is_cursor_shown = end == "h",
            ("2", "J") => self.clear(),
            (place, "H") => {
                let mut numbers = place.split(';').map(|number| number.parse::<usize>().unwrap_or(1) - 1);
                self.at = (numbers.next().unwrap(), numbers.next().unwrap_or(0));
            }
            _ => {}
        }
    }

    fn text(&self) -> String {
        self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }
}

/// `tandem top` on a terminal that `script` makes.
struct Top {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Screen>>,
}

impl Top {
    fn start(machine: &Machine) -> Self {
        let program = env!("CARGO_BIN_EXE_tandem");
        let data = machine.layout.data().display().to_string();
        let inner = format!("stty rows {ROWS} cols {COLUMNS}; exec '{program}' --data '{data}' top");
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &inner, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("TANDEM_FLEET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`script` of util-linux makes a terminal");
        let screen = Arc::new(Mutex::new(Screen::default()));
        screen.lock().unwrap().clear();
        let (mut output, seen) = (script.stdout.take().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                let mut screen = seen.lock().unwrap();
                bytes[..read].iter().for_each(|byte| screen.take(*byte));
            }
        });
        let keys = script.stdin.take().unwrap();
        Self { script, keys, screen }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Screen) -> bool) {
        let end = Instant::now() + LIMIT;
        while !wanted(&self.screen.lock().unwrap()) {
            let text = self.screen.lock().unwrap().text();
            assert!(Instant::now() < end, "never {what}; the screen is\n{text}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn shows(&self, text: &str) {
        self.until(text, |screen| screen.text().contains(text)).await;
    }

    /// The process of `tandem top`.
    fn pid(&self) -> Pid {
        let id = self.script.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().expect("it runs").parse().unwrap())
    }

    /// Waits for the end; the exit code, once the terminal is as it was.
    async fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.script.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end");
            tokio::time::sleep(LOOK).await;
        };
        self.until("the shell's own picture and cursor", |screen| !screen.is_apart && screen.is_cursor_shown).await;
        status.code()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        drop(self.script.kill());
        drop(self.script.wait());
    }
}

fn json(machine: &Machine) -> Value {
    let output = machine.run(&["top", "--json"]);
    good(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn one_picture_shows_both_machines_with_what_was_measured() {
    let mut pair = Pair::joined().await;
    pair.nodes[1].down();
    assert_eq!(pair.nodes[1].run(&["top", "--once"]).status.code(), Some(3), "no node runs there");
    pair.nodes[1].up().await;
    pair.nodes[0]
        .until("right is ready", |status| {
            let peer = &status.peers[0];
            let told = peer.usage.as_ref().is_some_and(|usage| usage.cpu_ratio.is_some() && !usage.groups.is_empty());
            peer.state == PeerState::Alive && told && peer.groups.iter().any(|group| group.state == GroupState::Ready)
        })
        .await;

    let value = json(&pair.nodes[0]);
    let (here, there) = (&value["nodes"][0], &value["nodes"][1]);
    assert_eq!((&here["node"], &there["node"], &there["standing"]), (&"left".into(), &"right".into(), &"alive".into()));
    for node in [here, there] {
        assert!(node["memory_used_bytes"].as_u64() < node["memory_total_bytes"].as_u64(), "{node}");
        assert!(node["groups"][0]["resident_bytes"].as_u64() > Some(1 << 20), "{node}");
        assert!(node["cpu_ratio"].as_f64().is_some(), "{node}");
    }
    assert!(there["round_trip_us"].as_u64() > Some(0), "{there}");
    let group = &here["groups"][0];
    assert!(group["probe_us"].as_u64() > Some(0) && group["calls_per_s"].as_f64().is_some(), "{group}");
    let parts = group["parts"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["name"] == "ServiceRegistry" && part["state"] == "ready"), "{group}");
    assert_eq!(there["groups"][0]["probe_us"], Value::Null, "nobody probes a group of another machine");

    // Written to a file, it is one picture without colours.
    let shown = said(&pair.nodes[0].run(&["top"]));
    assert!(shown.contains("right") && shown.contains("alive") && shown.contains("infra_core"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");

    pair.nodes[1].signal(Signal::SIGSTOP);
    pair.nodes[0].sees(PeerState::Unknown).await;
    let shown = said(&pair.nodes[0].run(&["top", "--once"]));
    assert!(shown.contains("unknown") && shown.contains("last seen"), "{shown}");
}

#[tokio::test]
async fn on_a_terminal_it_is_live_takes_keys_and_gives_the_terminal_back() {
    let mut pair = Pair::founded();
    pair.nodes[0].up().await;
    let ready = |status: &tandem_node::NodeStatus| status.groups.iter().all(|group| group.state == GroupState::Ready);
    let before = pair.nodes[0].until("it is ready", ready).await.groups[0].pid;
    let mut top = Top::start(&pair.nodes[0]);
    top.shows("infra_core").await;
    assert!(top.screen.lock().unwrap().is_apart);
    top.press("\r");
    top.shows("ServiceRegistry").await;
    top.press("l");
    top.shows("the last lines of infra_core").await;
    top.press("q");
    top.shows("q ends").await;
    top.press("ry");
    pair.nodes[0].until("the group is another process", |now| ready(now) && now.groups[0].pid != before).await;
    top.press("q");
    assert_eq!(top.ended().await, Some(0));

    let mut top = Top::start(&pair.nodes[0]);
    top.shows("infra_core").await;
    pair.nodes[0].down();
    top.shows("no node runs here").await;
    top.shows("infra_core").await;
    kill(top.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(top.ended().await, Some(130));
}
