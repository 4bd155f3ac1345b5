//! `tandem top`: nodes, groups, agents, restarts and latencies, live.

mod calls;
mod draw;
mod logic;
mod look;
mod picture;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{IsTerminal as _, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use serde_json::json;
use tandem_types::{Fault, GroupName, NodeName, reason};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::TopArgs;
use crate::place::Place;
use crate::serve::signals;
use crate::{INTERRUPTED, NO_NODE, Outcome, logs, style};
use draw::Screen;
use logic::rows;
use look::{Look, Looker};
use picture::Picture;
use terminal::{Drawn, Meaning, broken, meaning};
use view::{Deed, Mode, View};

/// Lines of a log that are looked at.
const LOG_LINES: usize = 200;

pub(crate) async fn run(args: TopArgs, place: Place) -> Outcome {
    let mut looker = Looker::new(place.clone());
    let first = match looker.look().await {
        Ok(first) => first,
        Err(fault) if fault.reason == reason::PEER_AWAY => {
            match args.json {
                true => anstream::println!("{:#}", json!({ "running": false })),
                false => style::complain(&style::bad("error"), &fault.message),
            }
            return Ok(ExitCode::from(NO_NODE));
        }
        Err(fault) => return Err(fault),
    };
    if !args.once && !args.json && stdout().is_terminal() {
        return live(looker, first, args.every, &place).await;
    }
    // It takes two looks to see how much happens in between.
    tokio::time::sleep(args.every).await;
    let picture = looker.look().await?;
    if args.json {
        let mut value = json!(picture);
        if let Some(object) = value.as_object_mut() {
            object.insert("running".into(), true.into());
        }
        anstream::println!("{value:#}");
    } else {
        anstream::print!("{}", draw::plain(&picture, &View::default(), style::width()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is on the screen.
struct Shown {
    picture: Picture,
    taken: Instant,
    /// Why the last look showed nothing.
    fault: Option<Fault>,
    view: View,
    log: Vec<String>,
}

impl Shown {
    fn take(&mut self, look: Option<Look>) {
        match look {
            Some(Ok(picture)) => (self.picture, self.taken, self.fault) = (picture, Instant::now(), None),
            Some(Err(fault)) => self.fault = Some(fault),
            None => {}
        }
    }

    /// The node that was asked.
    fn here(&self) -> Option<&NodeName> {
        self.picture.nodes.first().map(|node| &node.node)
    }
}

async fn live(looker: Looker, first: Picture, every: Duration, place: &Place) -> Outcome {
    let mut ended = pin!(signals()?);
    let (told, mut looks) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(looker.follow(every, told));
    let mut shown = Shown { picture: first, taken: Instant::now(), fault: None, view: View::default(), log: vec![] };
    let coloured = anstream::AutoStream::choice(&stdout()) != anstream::ColorChoice::Never;
    let mut terminal = Drawn::take()?;
    let mut keys = EventStream::new();
    loop {
        if let Mode::Log(group) = &shown.view.mode {
            shown.log = log(place, group);
        }
        let trouble = shown.fault.as_ref().map(|fault| {
            let age = u64::try_from(shown.taken.elapsed().as_millis()).unwrap_or(u64::MAX);
            format!("{}; looking again; this is {} old", fault.message, style::span(age))
        });
        terminal.draw(&Screen {
            picture: Some(&shown.picture),
            view: &shown.view,
            trouble: trouble.as_deref(),
            log: &shown.log,
            coloured,
        })?;
        let event = tokio::select! {
            () = &mut ended => return Ok(ExitCode::from(INTERRUPTED)),
            changed = looks.changed() => {
                changed.map_err(|_| Fault::internal("what looks at the node has ended by itself"))?;
                let look = looks.borrow_and_update().clone();
                shown.take(look);
                continue;
            }
            event = keys.next() => event,
        };
        let key = match event {
            Some(Ok(Event::Key(key))) => key,
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(broken(&error)),
            None => return Ok(ExitCode::SUCCESS),
        };
        let press = match meaning(key, terminal.page()) {
            None => continue,
            Some(Meaning::Interrupt) => return Ok(ExitCode::from(INTERRUPTED)),
            Some(Meaning::Press(press)) => press,
        };
        let here = shown.here().cloned();
        let seen = rows(&shown.picture, &shown.view);
        match shown.view.press(press, &seen, here.as_ref()) {
            Deed::Nothing => {}
            Deed::Quit => return Ok(ExitCode::SUCCESS),
            Deed::Restart(group) => {
                let done = place.control().restart(&group).await;
                shown.view.said = Some(done.map_or_else(|fault| fault.message, |()| format!("restarting {group}")));
            }
        }
    }
}

/// The last lines of a group's log, for people.
fn log(place: &Place, group: &GroupName) -> Vec<String> {
    let lines = tandem_process::tail(&place.layout.logs().join(format!("{group}.log")), LOG_LINES);
    let plain = |line: &String| anstream::adapter::strip_str(&logs::readable(line)).to_string();
    match lines.is_empty() {
        true => vec![format!("{group} has logged nothing")],
        false => lines.iter().map(plain).collect(),
    }
}
