//! A desk with three models and a host that does as it is told.

mod adapters;
mod binding;
mod lending;
mod loading;
mod promises;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use tandem_engine::gguf::GgufInfo;
use tandem_types::{Fault, Role, Timestamp};

use super::{Answer, Ask, Card, Desk, FileState, Grant, Info, Limits, Order, Profile, RoleNeed, Seen, Step};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const PROFILE: Profile = Profile { context_tokens: 2_048, slots: 2 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn role(name: &str) -> Role {
    name.parse().unwrap()
}

/// A file of so many MiB whose engine takes little beside them: about 70 MiB, and 8 % of all.
fn here(mib: u64) -> FileState {
    let info = GgufInfo {
        architecture: "llama".into(),
        name: String::new(),
        layers: 1,
        embedding: 1,
        feed_forward: 1,
        heads: 1,
        kv_heads: vec![0],
        key_width: 1,
        value_width: 1,
        context_length: 32_768,
        vocabulary: 1,
        chat_template: true,
        tensor_bytes: mib * MIB,
        twice_bytes: 0,
        file_bytes: mib * MIB,
    };
    FileState::Here { path: format!("/models/{mib}.gguf").into(), info: Arc::new(info) }
}

fn absent(name: &str) -> FileState {
    FileState::Absent(format!("model {name} is not on this machine: get it with `tandem models pull {name}`"))
}

fn card(name: &str, quality: u64, roles: &[&str]) -> Card {
    Card {
        name: name.into(),
        roles: roles.iter().map(|name| role(name)).collect(),
        quality,
        context_tokens: 8_192,
        file_bytes: 100 * MIB,
        sha256: String::new(),
        licence: "MIT".into(),
        languages: vec!["en".into()],
        base: None,
    }
}

fn limits() -> Limits {
    let need = RoleNeed { profile: PROFILE, at_most: u64::MAX };
    Limits { ticket_life: Duration::from_secs(600), tickets: 100, batch: 128, need }
}

/// A desk over a share of so many MiB with three models: `small` (100 MiB, tiny and fast), `middle` (400 MiB, fast) and
/// `large` (900 MiB, fast and smart), each with its file as given.
fn desk(share: u64, files: [FileState; 3], words: &[(&str, &str)]) -> Desk {
    let need = |at_most: u64| RoleNeed { profile: PROFILE, at_most: at_most * MIB };
    let needs = [("llm.tiny", need(900)), ("llm.fast", need(2_700)), ("llm.smart", need(6_300))];
    let needs = needs.into_iter().map(|(name, need)| (role(name), need)).collect();
    let mut desk = Desk::new("solo/coordination".parse().unwrap(), share * MIB, limits(), needs);
    let [small, middle, large] = files;
    desk.add_model(card("small", 1, &["llm.tiny", "llm.fast"]), small);
    desk.add_model(card("middle", 2, &["llm.fast"]), middle);
    desk.add_model(card("large", 3, &["llm.fast", "llm.smart"]), large);
    desk.observe(&[], 0, at(0));
    desk.set_words(words.iter().map(|(name, word)| (role(name), (*word).to_owned())).collect());
    desk
}

fn all_here() -> [FileState; 3] {
    [here(100), here(400), here(900)]
}

fn ask(name: &str) -> Ask {
    Ask {
        role: role(name),
        context_tokens: 0,
        priority: 2,
        holder: "solo/a/B".into(),
        language: String::new(),
        min_quality: 0,
        until: at(0),
        conversation: String::new(),
    }
}

/// A host that does as it is told.
#[derive(Default)]
struct Host {
    engines: Vec<Seen>,
    /// All engines there have been.
    ever: Vec<Seen>,
    started: Vec<String>,
    number: u32,
}

impl Host {
    fn start(&mut self, order: &Order) -> Seen {
        self.number += 1;
        self.started.push(order.model.clone());
        let seen = Seen {
            id: format!("{}-{}", order.model, self.number),
            model: order.model.clone(),
            endpoint: format!("http://127.0.0.1:{}", 9_000 + self.number),
            down: None,
            failed: false,
            lease_bytes: order.bytes,
            measured: None,
            restarts: 0,
            load: SECOND,
            info: Some(info(order.bytes * 97 / 100)),
        };
        self.engines.push(seen.clone());
        self.ever.push(seen.clone());
        seen
    }

    /// Does everything the desk wants, looking at the engines every second, and returns the time it was done.
    fn settle(&mut self, desk: &mut Desk, mut now: Timestamp) -> Timestamp {
        for _ in 0..20 {
            match desk.next_step(now) {
                Step::Start(order) => {
                    let seen = self.start(&order);
                    desk.started(&order.model, &seen, now);
                }
                Step::Stop { model, engine } => {
                    self.engines.retain(|seen| seen.id != engine);
                    desk.stopped(&model);
                }
                Step::Rest => {
                    now = now + SECOND;
                    self.look(desk, now);
                }
            }
        }
        now
    }

    fn look(&mut self, desk: &mut Desk, now: Timestamp) {
        let epoch = desk.epoch();
        for stray in desk.observe(&self.engines.clone(), epoch, now) {
            self.engines.retain(|seen| seen.id != stray);
        }
    }

    fn engine(&mut self, model: &str) -> &mut Seen {
        self.engines.iter_mut().find(|seen| seen.model == model).expect("an engine of this model")
    }
}

fn info(resident: u64) -> Info {
    Info { profile: PROFILE, busy: 0, resident, answered: Timestamp::default() }
}

fn lent(answer: Answer) -> Grant {
    match answer {
        Answer::Lent(grant) => grant,
        other => panic!("not lent: {other:?}"),
    }
}

fn refused(answer: Answer) -> Fault {
    match answer {
        Answer::Refused(fault) | Answer::Wait(fault) => fault,
        Answer::Lent(grant) => panic!("lent: {grant:?}"),
    }
}

fn loaded(desk: &Desk) -> Vec<String> {
    desk.models(at(0)).into_iter().filter(|view| view.state == "loaded").map(|view| view.card.name).collect()
}

/// `small` and one of two others fit.
fn tight() -> (Desk, Host, Timestamp) {
    let mut desk = desk(1_300, all_here(), &[("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")]);
    desk.warm_up(at(0));
    let mut host = Host::default();
    let now = host.settle(&mut desk, at(0));
    assert_eq!(loaded(&desk), ["middle", "small"]);
    (desk, host, now)
}
