//! `tandem models`: fetch, list, check, delete.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tandem_engine::catalogue::{Entry, Progress, PullOptions, State, Store};
use tandem_types::Fault;

use crate::cli::{FleetArgs, ModelsCommand};
use crate::fleet::planned;
use crate::{FAILED, Outcome, preflight, style};

pub(crate) fn run(command: ModelsCommand) -> Outcome {
    let store = Store::open()?;
    match command {
        ModelsCommand::List { json } => list(&store, json),
        ModelsCommand::Pull { names, default: false, .. } => pull(&store, &names),
        ModelsCommand::Pull { fleet, .. } => {
            let planned = planned(&FleetArgs { fleet, node: None })?;
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

fn words(state: &State) -> String {
    match state {
        State::Present => style::good("present"),
        State::Absent => style::dim("absent"),
        State::Partial(bytes) => style::warn(&format!("partial, {} MiB", bytes >> 20)),
        State::Corrupt(why) => style::bad(&format!("corrupt: {why}")),
    }
}

fn list(store: &Store, as_json: bool) -> Outcome {
    let entries = store.list()?;
    if as_json {
        let row = |entry: &Entry<'_>| {
            let state = match &entry.state {
                State::Present => "present",
                State::Absent => "absent",
                State::Partial(_) => "partial",
                State::Corrupt(_) => "corrupt",
            };
            json!({
                "name": entry.model.name, "roles": entry.model.roles, "size_bytes": entry.model.size_bytes,
                "quantisation": entry.model.quantisation, "licence": entry.model.licence, "sha256": entry.model.sha256,
                "state": state, "path": entry.path,
            })
        };
        anstream::println!("{:#}", json!(entries.iter().map(row).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    let width = entries.iter().map(|e| e.model.name.len()).max().unwrap_or(0);
    for Entry { model, state, .. } in &entries {
        let roles: Vec<&str> = model.roles.iter().map(AsRef::as_ref).collect();
        let about = format!("{}, {}, for {}", model.quantisation, model.licence, roles.join(", "));
        anstream::println!(
            "{:<width$}  {:>5} MiB  {}  {}",
            model.name,
            model.size_bytes >> 20,
            words(state),
            style::dim(&about)
        );
    }
    Ok(ExitCode::SUCCESS)
}

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
                anstream::eprintln!("{}: {}", style::bad("error"), fault.message);
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
        anstream::println!("{name}  {}  {}", words(&entry.state), style::dim(&entry.path.display().to_string()));
    }
    Ok(ExitCode::from(if failed { FAILED } else { 0 }))
}

/// The progress of one fetch.
struct Bar {
    bar: ProgressBar,
}

impl Bar {
    fn new(name: &str) -> Self {
        let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
        // The template is a constant that a test makes.
        let style = ProgressStyle::with_template(template).expect("the template is sound");
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
    fn the_template_is_sound() {
        Bar::new("x").clear();
    }
}
