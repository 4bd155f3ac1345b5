//! `tandem models`: fetch, list, check, delete, evaluate; what is about adapters is in `adapters`.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tandem_engine::catalogue::{Entry, Progress, PullOptions, State, Store};
use tandem_types::Fault;

use crate::cli::{FleetArgs, ModelsCommand};
use crate::fleet::planned;
use crate::place::Place;
use crate::{FAILED, Outcome, adapters, evaluate, preflight, style, wait};

pub(crate) fn run(command: ModelsCommand, place: impl FnOnce() -> Result<Place, Fault>) -> Outcome {
    let store = Store::open()?;
    match command {
        ModelsCommand::Evaluate { names, adapter, suite, json } => {
            wait(evaluate::run(&names, adapter.as_deref(), suite.as_deref(), json, place()?))
        }
        ModelsCommand::AddAdapter { file, base, name, licence } => {
            wait(adapters::add(&file, &base, name, licence, place()?))
        }
        ModelsCommand::Publish { adapter, role, percent } => {
            wait(adapters::publish(&adapter, &role, percent, place()?))
        }
        ModelsCommand::Rollback { role } => wait(adapters::roll_back(&role, place()?)),
        ModelsCommand::List { json } => wait(list(&store, json, place()?)),
        ModelsCommand::Pull { names, default: false, .. } => pull(&store, &names),
        ModelsCommand::Pull { fleet, .. } => {
            let planned = planned(&FleetArgs { fleet, node: None }, place().ok().as_ref())?;
            let chosen = preflight::chosen(&planned.plan)?;
            for (name, roles) in &chosen {
                let roles: Vec<&str> = roles.iter().map(AsRef::as_ref).collect();
                anstream::println!("{} for {}", style::bold(name), roles.join(", "));
            }
            pull(&store, &chosen.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        }
        ModelsCommand::Rm { names } => remove(&store, &names),
        ModelsCommand::Verify { names } => verify(&store, &names),
    }
}

/// What is here of a model, in `columns` columns.
fn words(state: &State, columns: usize) -> String {
    let pad = |text: &str| format!("{text:<columns$}");
    match state {
        State::Present => style::good(&pad("present")),
        State::Absent => style::dim(&pad("absent")),
        State::Partial(bytes) => style::warn(&pad(&format!("partial, {} MiB", bytes >> 20))),
        State::Corrupt(why) => style::bad(&pad(&format!("corrupt: {why}"))),
    }
}

async fn list(store: &Store, as_json: bool, place: Place) -> Outcome {
    let entries = store.list()?;
    let running = adapters::running(&place).await;
    if as_json {
        let row = |entry: &Entry<'_>| {
            let state = match &entry.state {
                State::Present => "present",
                State::Absent => "absent",
                State::Partial(_) => "partial",
                State::Corrupt(_) => "corrupt",
            };
            json!({
                "name": entry.model.name, "format": entry.model.format.as_str(), "roles": entry.model.roles,
                "size_bytes": entry.model.size_bytes,
                "quantisation": entry.model.quantisation, "licence": entry.model.licence, "sha256": entry.model.sha256,
                "state": state, "path": entry.path,
            })
        };
        let adapters = running.iter().flat_map(|running| running.in_json());
        anstream::println!("{:#}", json!(entries.iter().map(row).chain(adapters).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = table(&entries, style::width());
    lines.extend(running.iter().flat_map(|running| running.in_words()));
    lines.iter().for_each(|line| anstream::println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

/// A model on a line; its roles go on below each other where a line is too short for them.
fn table(entries: &[Entry<'_>], width: usize) -> Vec<String> {
    let column = |of: fn(&Entry<'_>) -> usize| entries.iter().map(of).max().unwrap_or(0);
    let names = column(|e| e.model.name.len());
    let kinds = column(|e| e.model.quantisation.len());
    let licences = column(|e| e.model.licence.len());
    // A file that is damaged says why, however long that is.
    let states = column(|e| match e.state {
        State::Partial(_) => PARTIAL,
        _ => "present".len(),
    });
    let used = names + kinds + licences + states + SIZE + 5 * 2;
    let mut lines = Vec::new();
    for Entry { model, state, .. } in entries {
        let roles: Vec<&str> = model.roles.iter().map(AsRef::as_ref).collect();
        // What is no model says what it is instead.
        let roles = if roles.is_empty() { model.format.as_str().to_owned() } else { roles.join(" ") };
        let roles = style::wrapped(&roles, width.saturating_sub(used).max(LEAST));
        let about = format!("{:<kinds$}  {:<licences$}", model.quantisation, model.licence);
        let size = if model.size_bytes >> 20 == 0 { "<1".to_owned() } else { (model.size_bytes >> 20).to_string() };
        let line = format!("{:<names$}  {size:>5} MiB  {}", model.name, words(state, states));
        lines.push(format!("{line}  {}", style::dim(&format!("{about}  {}", roles.first().map_or("", |r| r)))));
        lines.extend(roles.iter().skip(1).map(|more| style::dim(&format!("{:used$}{more}", ""))));
    }
    lines
}

/// A role is no longer, as a rule.
const LEAST: usize = 12;
/// Columns of a size in MiB, and of what is said of a file that is not whole.
const SIZE: usize = 9;
const PARTIAL: usize = "partial, 12345 MiB".len();

/// Fetches each model that is not here; one that fails does not keep the others from coming.
fn pull(store: &Store, names: &[String]) -> Outcome {
    let options = PullOptions::from_env()?;
    let mut failed = false;
    for name in names {
        let bar = Bar::new(name);
        let pulled = store.pull(name, &options, &bar);
        bar.clear();
        match pulled {
            Ok(pulled) => {
                let from = pulled.source.map_or("was here already".to_owned(), |source| format!("from the {source}"));
                anstream::println!("{} {name} {from}, hash checked: {}", style::good("✔"), pulled.path.display());
            }
            Err(fault) => {
                failed = true;
                style::complain(&style::bad("error"), &fault.message);
            }
        }
    }
    Ok(ExitCode::from(if failed { FAILED } else { 0 }))
}

fn remove(store: &Store, names: &[String]) -> Outcome {
    // All names are looked at before anything is deleted.
    names.iter().try_for_each(|name| store.catalogue().model(name).map(drop))?;
    for name in names {
        let bytes = store.remove(name)?;
        anstream::println!("{name}: {} MiB deleted", bytes >> 20);
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(store: &Store, names: &[String]) -> Outcome {
    let here = || -> Result<Vec<String>, Fault> {
        let entries = store.list()?;
        Ok(entries.iter().filter(|e| e.state != State::Absent).map(|e| e.model.name.clone()).collect())
    };
    let names = if names.is_empty() { here()? } else { names.to_vec() };
    let mut failed = false;
    for name in &names {
        let entry = store.verify(name)?;
        failed |= entry.state != State::Present;
        anstream::println!("{name}  {}  {}", words(&entry.state, 0), style::dim(&entry.path.display().to_string()));
    }
    Ok(ExitCode::from(if failed { FAILED } else { 0 }))
}

/// How far a fetch is, and below it what is being done.
const BAR: &str = "{prefix} {wide_bar} {bytes:>10} of {total_bytes} {bytes_per_sec:>12} {eta:>4}\n{wide_msg}";

/// The progress of one fetch.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(name: &str) -> Self {
        // The template is a constant that a test makes.
        let style = ProgressStyle::with_template(BAR).expect("the template is sound");
        Self { bar: ProgressBar::new(0).with_style(style).with_prefix(name.to_owned()) }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn started(&self, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(0);
    }

    fn advanced(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn phase(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.bar.is_hidden() {
            anstream::println!("{text}");
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| anstream::eprintln!("{}: {text}", style::warn("note")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shows_every_role_of_a_model() {
        let (models, _) = tandem_engine::catalogue::built_in().unwrap();
        let entry = |model| Entry { model, state: State::Absent, path: "x".into() };
        let entries: Vec<_> = models.models().iter().map(entry).collect();
        let lines = table(&entries, 80);
        let plain: Vec<String> = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert!(plain.iter().all(|line| line.chars().count() <= 80), "{plain:#?}");
        let roles: Vec<&str> = models.models().iter().flat_map(|model| &model.roles).map(AsRef::as_ref).collect();
        let shown = |line: &String| line.split_whitespace().filter(|word| roles.contains(word)).count();
        assert_eq!(plain.iter().map(shown).sum::<usize>(), roles.len(), "{plain:#?}");
        assert!(plain.iter().any(|line| line.starts_with("speech-jfk") && line.ends_with("recording")), "{plain:#?}");
    }

    #[test]
    fn the_template_is_sound() {
        Bar::new("x").clear();
    }
}
