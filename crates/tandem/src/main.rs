//! `tandem`: the command line, and the program that every node and group is a process of.

mod adapters;
mod ask;
mod cli;
mod doctor;
mod down;
mod evaluate;
mod exits;
mod expected;
mod facts;
mod fleet;
mod install;
mod join;
mod known;
mod live;
mod logging;
mod logs;
mod measures;
mod memory;
mod models;
mod others;
mod place;
mod plan;
mod preflight;
mod probe;
mod serve;
mod status;
mod style;
mod top;
mod tree;
mod trust;
mod up;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use tandem_types::{Fault, reason};

use crate::cli::{Cli, Command};
use crate::place::Place;

/// What a command answers its caller.
type Outcome = Result<ExitCode, Fault>;

/// Something is not as it should be.
const FAILED: u8 = 1;
/// Nothing was asked for that there is, as clap says it.
const USAGE: u8 = 2;
/// No node runs here.
const NO_NODE: u8 = 3;
/// Ended by the person, as shells say it of SIGINT.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    tandem_process::inherit();
    // clap shows its help by itself only as long as no environment variable stands for an option.
    if std::env::args_os().len() <= 1 {
        let (Ok(()) | Err(_)) = Cli::command().print_help();
        return ExitCode::from(USAGE);
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(fault) => {
            style::complain(&style::bad("error"), &fault.message);
            if let Some(after) = fault.retry_after {
                anstream::eprintln!("  try again in {:.1} s", after.as_secs_f32());
            }
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> Outcome {
    let place = || Place::find(cli.data.clone());
    match cli.command {
        Command::Serve(args) => serve::run(&args, place()?),
        Command::Up(args) => wait(up::run(args, place()?)),
        Command::Ask(args) => wait(ask::run(args, place()?)),
        Command::Status(args) => wait(status::run(args, place()?)),
        Command::Top(args) => wait(top::run(args, place()?)),
        Command::Probe(args) => wait(probe::run(args, place()?)),
        Command::Down(args) => wait(down::run(args, place()?)),
        Command::Restart(args) => wait(down::restart(args, place()?)),
        Command::Doctor(args) => wait(doctor::run(args, place()?)),
        Command::Join(args) => wait(join::run(args, place()?)),
        Command::Logs(args) => logs::run(&args, &place()?),
        Command::Plan(args) => wait(plan::run(args, place().ok())),
        Command::Models(command) => models::run(command, place),
        Command::Init(args) => trust::init(&args, &place()?),
        Command::Invite(args) => trust::invite(&args, &place()?),
        Command::Revoke(args) => trust::revoke(&args, &place()?),
        Command::Install(args) => install::install(&args, &place()?),
        Command::Uninstall(args) => install::uninstall(&args, &place()?),
        Command::Trust(args) => trust::show(&args, &place()?),
    }
}

/// Runs a command that waits for other processes; one thread is enough for that.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::unavailable(reason::BUG, format!("cannot start the command's runtime: {e}")))?;
    runtime.block_on(command)
}
