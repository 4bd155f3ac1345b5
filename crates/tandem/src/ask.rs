//! `tandem ask`: one turn, its answer printed as it is written.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt as _;
use tandem_contract::pb::tandem::coordinator::v1::__buffa::oneof::turn_event::Event;
use tandem_contract::pb::tandem::coordinator::v1::{
    Accepted, CancelRequest, Final, Modality, SubmitRequest, TurnEvent,
};
use tandem_contract::{Call, Client, FaultStream, fault_from_info, rpc};
use tandem_types::{Fault, reason};

use crate::cli::AskArgs;
use crate::place::Place;
use crate::{INTERRUPTED, NO_NODE, Outcome, fleet, style};

/// Who asks at the command line: the owner of the machine.
const USER: &str = "owner";
/// By what door.
const DOOR: &str = "cli";

pub(crate) async fn run(args: AskArgs, place: Place) -> Outcome {
    let Some(running) = fleet::here(&place).await? else { return Ok(ExitCode::from(NO_NODE)) };
    let text = words(&args)?;
    let client = fleet::client(&running.plan, &running.node, rpc::coordinator::SUBMIT.path(), &place)?;
    let request = SubmitRequest {
        idempotency_key: uuid::Uuid::new_v4().as_bytes().to_vec(),
        user_id: USER.into(),
        session_id: args.session.clone().unwrap_or_default(),
        modality: Modality::MODALITY_TEXT.into(),
        text,
        channel: DOOR.into(),
        ..Default::default()
    };
    let events = client.server_stream(rpc::coordinator::SUBMIT, request, &Call::from_door(DOOR)).await?;
    Turn { client, args, accepted: None, wrote: false }.follow(events).await
}

/// What was typed, or what comes in.
fn words(args: &AskArgs) -> Result<String, Fault> {
    let typed = args.text.join(" ");
    if !typed.is_empty() && typed != "-" {
        return Ok(typed);
    }
    if std::io::stdin().is_terminal() && typed.is_empty() {
        return Err(Fault::invalid_field("TEXT", "is missing: write the question after `ask`, or pipe it in"));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Fault::invalid_field("standard input", format!("cannot be read as text: {e}")))?;
    let text = text.trim();
    if text.is_empty() { Err(Fault::invalid_field("standard input", "is empty")) } else { Ok(text.to_owned()) }
}

struct Turn {
    client: Client,
    args: AskArgs,
    accepted: Option<Accepted>,
    wrote: bool,
}

impl Turn {
    async fn follow(
        mut self,
        mut events: FaultStream<tandem_contract::pb::tandem::coordinator::v1::SubmitResponse>,
    ) -> Outcome {
        loop {
            let next = tokio::select! {
                next = events.next() => next,
                _ = tokio::signal::ctrl_c() => return self.cancel().await,
            };
            let Some(response) = next else {
                let message = "the connection ended before the answer did";
                return Err(Fault::unavailable(reason::PEER_AWAY, message));
            };
            let Some(event) = response?.event.into_option() else { continue };
            if self.args.json {
                print_json(&event)?;
            }
            if let Some(outcome) = self.event(event.event) {
                return outcome;
            }
        }
    }

    /// Shows one event; an outcome ends the turn.
    fn event(&mut self, event: Option<Event>) -> Option<Outcome> {
        let quiet = self.args.json;
        match event? {
            Event::Accepted(accepted) => {
                if accepted.position > 0 && !quiet {
                    anstream::eprintln!("{}", waiting(accepted.position));
                }
                self.accepted = Some(*accepted);
            }
            Event::Status(status) if status.stage == "restarted" && !quiet => {
                anstream::eprintln!("{}", style::dim("the answer begins anew after a restart"));
                self.wrote = false;
            }
            Event::Status(status) if status.stage == "queued" && status.position > 0 && !quiet => {
                anstream::eprintln!("{}", waiting(status.position));
            }
            Event::Delta(delta) if !quiet => self.write(&delta.text),
            Event::Final(answer) => {
                if !quiet {
                    self.finish(&answer);
                }
                return Some(Ok(ExitCode::SUCCESS));
            }
            Event::Error(error) => {
                if self.wrote && !quiet {
                    anstream::println!();
                }
                return Some(Err(fault_from_info(&error)));
            }
            _ => {}
        }
        None
    }

    fn write(&mut self, text: &str) {
        let mut out = anstream::stdout().lock();
        // A reader that has left wants no more of the answer.
        let (Ok(()) | Err(_)) = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        self.wrote |= !text.is_empty();
    }

    fn finish(&mut self, answer: &Final) {
        if !self.wrote {
            self.write(&answer.text);
        }
        anstream::println!();
        if self.args.path || std::io::stdout().is_terminal() {
            path(answer).iter().for_each(|line| anstream::println!("{line}"));
        }
        if let Some(line) = not_built(answer).filter(|_| self.args.path) {
            anstream::println!("{}", style::dim(&line));
        }
        // Whoever reads only the answer is to know what it lacks.
        for note in &answer.missing {
            anstream::eprintln!("{}", style::warn(&format!("went without {note}")));
        }
    }

    /// Ends the turn at its owner, so that nothing goes on writing for nobody.
    async fn cancel(self) -> Outcome {
        if let Some(accepted) = &self.accepted {
            let request =
                CancelRequest { user_id: USER.into(), turn_id: accepted.turn_id.clone(), ..Default::default() };
            let call = Call::from_door(DOOR).within(Duration::from_secs(2), std::time::Instant::now());
            if let Err(fault) = self.client.unary(rpc::coordinator::CANCEL, request, &call).await {
                anstream::eprintln!("\nthe turn may go on: {fault}");
            }
        }
        anstream::eprintln!("\n{}", style::dim("stopped"));
        Ok(ExitCode::from(INTERRUPTED))
    }
}

fn waiting(place: u32) -> String {
    style::dim(&match place {
        1 => "waiting: next in the queue".to_owned(),
        place => format!("waiting: place {place} in the queue"),
    })
}

fn print_json(event: &TurnEvent) -> Result<(), Fault> {
    let line = serde_json::to_string(event)
        .map_err(|e| Fault::internal(format!("an event cannot be written as JSON: {e}")))?;
    anstream::println!("{line}");
    Ok(())
}

/// Who answered, how fast, and the way the turn went with its times.
fn path(answer: &Final) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(origin) = answer.provenance.as_option() {
        let role = if origin.role.is_empty() { String::new() } else { format!(" ({})", origin.role) };
        let adapter = if origin.adapter.is_empty() { String::new() } else { format!(" + {}", origin.adapter) };
        facts.push(format!("{}{adapter}{role}", origin.model));
        if !origin.fallback_reason.is_empty() {
            facts.push(format!("stood in for {}: {}", origin.role, origin.fallback_reason));
        }
    }
    facts.push(format!("first words after {}", style::span(answer.first_delta_ms.into())));
    facts.extend(answer.tokens_per_second.map(|rate| format!("{rate:.1} tokens/s")));
    if let Some(usage) = answer.usage.as_option() {
        facts.push(format!(
            "{} tokens read ({} from cache), {} written",
            usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
        ));
    }
    if answer.finish_reason == "length" {
        facts.push("cut at the length limit".into());
    }
    let facts: Vec<String> = facts.into_iter().filter(|f| !f.is_empty()).collect();
    let mut lines = vec![style::dim(&facts.join(" · "))];
    let width = answer.timings.iter().map(|t| t.stage.len()).max().unwrap_or(0);
    for timing in &answer.timings {
        let (ms, tenth) = (timing.micros / 1000, timing.micros % 1000 / 100);
        let took = format!("{ms}.{tenth} ms");
        let line = format!("  {:<width$}  {took:>11}  {}", timing.stage, timing.agent);
        lines.push(style::dim(line.trim_end()));
    }
    if answer.dropped_history > 0 {
        lines.push(style::warn(&format!("  {} oldest messages did not fit", answer.dropped_history)));
    }
    lines
}

/// How many agents would have made the answer better, had this build code for them.
fn not_built(answer: &Final) -> Option<String> {
    match answer.not_built.len() {
        0 => None,
        1 => Some("  without 1 agent that is not built (--json names it)".into()),
        n => Some(format!("  without {n} agents that are not built (--json names them)")),
    }
}
