//! `tandem logs`: what groups and the node have written down, for people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tandem_process::LogReader;
use tandem_types::{Fault, reason};

use crate::cli::LogsArgs;
use crate::place::Place;
use crate::{Outcome, style};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &LogsArgs, place: &Place) -> Outcome {
    let folder = place.layout.logs();
    let logs = find(&folder, args.group.as_deref())?;
    let mut width = logs.keys().map(String::len).max().unwrap_or(0);
    // Lines of several logs are told apart by their time; one without belongs to the line before it.
    let mut past: Vec<(String, &str, String)> = Vec::new();
    for (name, path) in &logs {
        let mut time = String::new();
        for line in tandem_process::tail(path, args.lines) {
            time = stamp(&line).unwrap_or(time);
            past.push((time.clone(), name, line));
        }
    }
    past.sort_by(|a, b| a.0.cmp(&b.0));
    let mut show = |name: &str, line: &str| {
        width = width.max(name.len());
        let line = if args.raw { line.to_owned() } else { readable(line) };
        let name = if args.group.is_none() { style::dim(&format!("{name:<width$} ")) } else { String::new() };
        anstream::println!("{name}{line}");
    };
    past[past.len().saturating_sub(args.lines)..].iter().for_each(|(_, name, line)| show(name, line));
    if past.is_empty() && !args.follow {
        anstream::eprintln!("nothing has been logged in {}", folder.display());
    }
    if args.follow {
        follow(&folder, args.group.as_deref(), logs, &mut show)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All logs, by the name of who writes them.
fn all(folder: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .collect()
}

/// The logs that are asked for.
fn find(folder: &Path, group: Option<&str>) -> Result<BTreeMap<String, PathBuf>, Fault> {
    let all = all(folder);
    let Some(group) = group else { return Ok(all) };
    let name = group.rsplit('/').next().unwrap_or(group);
    let known = all.keys().cloned().collect::<Vec<_>>().join(", ");
    match all.into_iter().find(|(known, _)| known == name) {
        Some(found) => Ok(BTreeMap::from([found])),
        None => {
            let known = if known.is_empty() { "no log at all".into() } else { format!("logs of {known}") };
            Err(Fault::not_found(format!("there is no log of `{name}` in {}, which has {known}", folder.display())))
        }
    }
}

/// Shows what is written from now on, also by groups that begin to write only now.
fn follow(
    folder: &Path,
    group: Option<&str>,
    logs: BTreeMap<String, PathBuf>,
    show: &mut dyn FnMut(&str, &str),
) -> Result<(), Fault> {
    let mut readers: BTreeMap<String, LogReader> =
        logs.into_iter().map(|(name, path)| (name, LogReader::at_end(&path))).collect();
    loop {
        for (name, reader) in &mut readers {
            let lines = reader.new_lines().map_err(|e| {
                Fault::unavailable(reason::DISK, format!("cannot read {}: {e}", reader.path().display()))
            })?;
            lines.iter().for_each(|line| show(name, line));
        }
        std::thread::sleep(LOOK);
        if group.is_none() {
            for (name, path) in all(folder) {
                readers.entry(name).or_insert_with(|| LogReader::at_start(&path));
            }
        }
    }
}

fn stamp(line: &str) -> Option<String> {
    serde_json::from_str::<Value>(line).ok()?["timestamp"].as_str().map(str::to_owned)
}

/// A JSON log line for people: time, level, message, then the rest as `key=value`. Other lines stay as they are.
pub(crate) fn readable(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else { return line.to_owned() };
    // Other programs keep what an event carries apart.
    if let Some(Value::Object(inner)) = fields.remove("fields") {
        fields.extend(inner);
    }
    let mut take = |key: &str| match fields.remove(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (time, level, message, target) = (take("timestamp"), take("level"), take("message"), take("target"));
    let time = time.get(11..23).unwrap_or(&time).to_owned();
    let level = match level.as_str() {
        "ERROR" => style::bad("ERROR"),
        "WARN" => style::warn("WARN "),
        other => format!("{other:<5}"),
    };
    let rest: Vec<String> = fields
        .iter()
        .filter(|(key, _)| !["span", "spans"].contains(&key.as_str()))
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            other => format!("{key}={other}"),
        })
        .collect();
    let rest = style::dim(&[rest.join(" "), target].join("  "));
    format!("{} {level} {message}  {rest}", style::dim(&time))
}

/// What a process said last that may tell why it ended: words of its own, or a warning or an error of its log.
pub(crate) fn last_words(lines: &[String]) -> Option<String> {
    lines.iter().rev().filter(|line| !line.trim().is_empty()).find_map(|line| {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return Some(line.clone()) };
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        let grave = matches!(text("level"), Some("WARN" | "ERROR"));
        let cause = ["error", "fault", "cause"].iter().find_map(|key| text(key));
        let message = text("message").filter(|_| grave)?;
        Some(cause.map_or_else(|| message.to_owned(), |cause| format!("{message}: {cause}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_log_line_is_readable_and_other_lines_stay() {
        let line = r#"{"timestamp":"2026-11-23T15:04:05.678901Z","level":"WARN","message":"late","group":"solo/a","n":3,"target":"x"}"#;
        assert_eq!(plain(&readable(line)), "15:04:05.678 WARN  late  group=solo/a n=3  x");
        assert_eq!(readable("error: port taken"), "error: port taken");
        assert_eq!(stamp(line).as_deref(), Some("2026-11-23T15:04:05.678901Z"));
    }

    #[test]
    fn last_words_are_those_that_tell_why() {
        let said = |lines: &[&str]| last_words(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        let info = r#"{"level":"INFO","message":"ready"}"#;
        let warn = r#"{"level":"WARN","message":"late","error":"no reply"}"#;
        assert_eq!(said(&[warn, info, ""]).as_deref(), Some("late: no reply"));
        assert_eq!(said(&[warn, "thread panicked", info]).as_deref(), Some("thread panicked"));
        assert_eq!(said(&[info]), None);
    }

    #[test]
    fn a_log_that_is_asked_for_and_not_there_is_named_with_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        let words = |group| find(folder.path(), Some(group)).map(drop).unwrap_err().message;
        assert!(words("solo/a").starts_with("there is no log of `a`"), "{}", words("solo/a"));
        assert!(words("a").ends_with("no log at all"), "{}", words("a"));
        std::fs::write(folder.path().join("b.log"), "").unwrap();
        std::fs::write(folder.path().join("b.log.1"), "").unwrap();
        assert!(words("a").ends_with("logs of b"), "{}", words("a"));
        assert_eq!(find(folder.path(), Some("solo/b")).unwrap().len(), 1);
        let mut reader = LogReader::at_start(&folder.path().join("b.log"));
        std::fs::write(folder.path().join("b.log"), "first\n").unwrap();
        assert_eq!(reader.new_lines().unwrap(), ["first"]);
    }

    #[test]
    fn a_followed_log_gives_whole_lines_and_survives_being_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let append = |text: &str| {
            let mut file = File::options().create(true).append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append("old\n");
        let mut reader = LogReader::at_end(&path);
        append("one\ntw");
        assert_eq!(reader.new_lines().unwrap(), ["one"]);
        append("o\n");
        assert_eq!(reader.new_lines().unwrap(), ["two"]);
        std::fs::rename(&path, folder.path().join("x.log.1")).unwrap();
        append("three\n");
        assert_eq!(reader.new_lines().unwrap(), ["three"]);
    }
}
