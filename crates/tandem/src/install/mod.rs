//! `tandem install` and `tandem uninstall`: the node as a service of systemd, which starts it with the machine and again
//! after it died.

mod unit;

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::unistd::{Uid, User};
use tandem_node::DataLock;
use tandem_types::{Code, Fault, reason};

use crate::cli::{InstallArgs, UninstallArgs};
use crate::fleet::{Planned, planned};
use crate::place::Place;
use crate::up::STOP_MARGIN;
use crate::{FAILED, Outcome, style};
use unit::{Scope, Unit, data_of};

/// The name of the service.
const SERVICE: &str = "tandem.service";

/// Reason: systemd does not run this machine.
const NO_SYSTEMD: &str = "no_systemd";
/// Reason: systemd refused what it was told.
const SYSTEMD_REFUSED: &str = "systemd_refused";

/// There where systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// What of a person's surroundings changes what a node does.
const VARIABLES: [&str; 4] = ["TANDEM_CACHE", "TANDEM_LOG", "OTEL_EXPORTER_OTLP_ENDPOINT", "mainpc_hub_endpoint"];

pub(crate) fn install(args: &InstallArgs, place: &Place) -> Outcome {
    let planned = planned(&args.fleet, Some(place))?;
    let unit = unit(args, &planned, place)?;
    if args.print {
        anstream::print!("{}", unit.text());
        return Ok(ExitCode::SUCCESS);
    }
    let systemd = Systemd::of(&unit.scope)?;
    let path = systemd.unit_path()?;
    match std::fs::read_to_string(&path) {
        Ok(there) => check_there(&path, &there, place)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(disk("read", &path, &e)),
    }
    warn_of_build_folder(&unit.program);
    write(&path, &unit.text())?;
    systemd.call(&["daemon-reload"])?;
    systemd.call(&["enable", SERVICE])?;
    if unit.scope == Scope::User {
        linger()?;
    }
    anstream::println!("{} {} starts with this machine", style::good("✔"), style::bold(SERVICE));
    anstream::println!("  {}", style::dim(&path.display().to_string()));
    if let Some(holder) = DataLock::holder(&place.layout.lock()) {
        anstream::println!("  node {} (process {}) runs already and goes on by itself", holder.node, holder.pid);
        let start = systemd.words(&["start", SERVICE]);
        anstream::println!("  to have systemd watch over it from now on: tandem down && {start}");
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("starting it");
    match systemd.call(&["start", SERVICE]) {
        Ok(()) => anstream::println!("{}; `tandem status` shows it", style::good("it runs")),
        Err(fault) => {
            style::complain(&style::bad("error"), &fault.message);
            anstream::eprintln!("  it is installed and does not run: `{}` has its words", systemd.journal());
            return Ok(ExitCode::from(FAILED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn uninstall(_: &UninstallArgs, place: &Place) -> Outcome {
    let scope = if Uid::effective().is_root() { Scope::System { user: String::new() } } else { Scope::User };
    let systemd = Systemd::of(&scope)?;
    let path = systemd.unit_path()?;
    match std::fs::read_to_string(&path) {
        Ok(there) => check_there(&path, &there, place)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            anstream::println!("there is no {}", path.display());
            return Ok(ExitCode::SUCCESS);
        }
        Err(e) => return Err(disk("read", &path, &e)),
    }
    systemd.call(&["disable", "--now", SERVICE])?;
    std::fs::remove_file(&path).map_err(|e| disk("remove", &path, &e))?;
    systemd.call(&["daemon-reload"])?;
    anstream::println!("{} {SERVICE} is gone; {} stays", style::good("✔"), place.layout.data().display());
    Ok(ExitCode::SUCCESS)
}

fn unit(args: &InstallArgs, planned: &Planned, place: &Place) -> Result<Unit, Fault> {
    let groups = &planned.plan.nodes[&planned.node].groups;
    let stages = groups.iter().map(|group| group.stage).max().unwrap_or(0) + 1;
    // One stage ends after the other, each group within its drain and the margin of the node.
    let stage = Duration::from_secs(planned.plan.drain_s.into()) + STOP_MARGIN;
    let program = Place::program()?;
    if !program.is_file() {
        let message = format!("{} is not there any more: run the program that is to stay", program.display());
        return Err(Fault::new(Code::FailedPrecondition, reason::DISK, message));
    }
    let fleet = args.fleet.fleet.as_ref().map(std::path::absolute).transpose();
    Ok(Unit {
        scope: scope(place)?,
        program,
        data: place.layout.data().to_owned(),
        node: planned.node.to_string(),
        fleet: fleet.map_err(|e| Fault::invalid_field("FLEET", format!("is no path: {e}")))?,
        env: VARIABLES.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect(),
        stop: stage * stages,
    })
}

/// The machine's service for root, as whoever owns the data folder; else the user's own.
fn scope(place: &Place) -> Result<Scope, Fault> {
    if !Uid::effective().is_root() {
        return Ok(Scope::User);
    }
    let data = place.layout.data();
    let owner = match std::fs::metadata(data) {
        Ok(folder) => Uid::from_raw(folder.uid()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Uid::effective(),
        Err(e) => return Err(disk("look at", data, &e)),
    };
    // `sudo` has another home: the folder of the person who asks would be left aside without a word.
    if let Some(person) = std::env::var("SUDO_USER").ok().filter(|name| owner.is_root() && name != "root") {
        let message = format!(
            "{} is root's, not {person}'s: without sudo `tandem install` makes a service of {person}'s own, which also \
             starts with the machine; or say whose data it serves with --data",
            data.display()
        );
        return Err(Fault::new(Code::FailedPrecondition, reason::BAD_FIELD, message));
    }
    match User::from_uid(owner) {
        Ok(Some(user)) => Ok(Scope::System { user: user.name }),
        _ => Err(Fault::invalid_field("--data", format!("{} belongs to nobody known ({owner})", data.display()))),
    }
}

/// Whether the unit that is there may be replaced or taken away.
fn check_there(path: &Path, there: &str, place: &Place) -> Result<(), Fault> {
    let refused = match data_of(there) {
        Some(data) if data == place.layout.data() => return Ok(()),
        Some(data) => format!(
            "{} serves {}, not {}: give that folder with --data, or `tandem uninstall` it there first",
            path.display(),
            data.display(),
            place.layout.data().display()
        ),
        None => format!("{} was not written by `tandem install`: move it away first", path.display()),
    };
    Err(Fault::new(Code::FailedPrecondition, reason::SECOND_OWNER, refused))
}

/// A program that the next build replaces, or `cargo clean` removes, is a poor thing to start with the machine.
fn warn_of_build_folder(program: &Path) {
    if program.components().any(|part| part.as_os_str() == "target") {
        let at = program.display();
        let words =
            format!("{at} lies in a build folder: copy it and tandem-llama beside it elsewhere to keep it as it is");
        style::complain(&style::warn("warning"), &words);
    }
}

/// Whose systemd.
struct Systemd {
    user: bool,
}

impl Systemd {
    fn of(scope: &Scope) -> Result<Self, Fault> {
        if !Path::new(BOOTED).exists() {
            return Err(Fault::new(
                Code::FailedPrecondition,
                NO_SYSTEMD,
                "systemd does not run this machine, nothing was changed; `tandem install --print` shows what a service \
                 of another kind has to do",
            ));
        }
        Ok(Self { user: *scope == Scope::User })
    }

    fn unit_path(&self) -> Result<PathBuf, Fault> {
        if !self.user {
            return Ok(Path::new("/etc/systemd/system").join(SERVICE));
        }
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")));
        let config = config.ok_or_else(|| Fault::invalid_field("HOME", "is not set: where are your units?"))?;
        Ok(config.join("systemd/user").join(SERVICE))
    }

    fn arguments<'a>(&self, rest: &[&'a str]) -> Vec<&'a str> {
        self.user.then_some("--user").into_iter().chain(rest.iter().copied()).collect()
    }

    fn words(&self, rest: &[&str]) -> String {
        format!("systemctl {}", self.arguments(rest).join(" "))
    }

    fn journal(&self) -> String {
        format!("journalctl {}-u {SERVICE}", if self.user { "--user " } else { "" })
    }

    fn call(&self, rest: &[&str]) -> Result<(), Fault> {
        run("systemctl", &self.arguments(rest))
    }
}

/// Has the user's services start with the machine, not with their first login.
fn linger() -> Result<(), Fault> {
    run("loginctl", &["enable-linger"]).map_err(|fault| {
        let message = format!("{}; without it the service starts when you log in, not with the machine", fault.message);
        Fault { message, ..fault }
    })
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Fault> {
    let words = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| Fault::unavailable(NO_SYSTEMD, format!("cannot run `{words}`: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Fault::unavailable(SYSTEMD_REFUSED, format!("`{words}` failed ({}): {}", output.status, said.trim())))
}

/// All of it or nothing: systemd reads it at the next start of the machine.
fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let new = path.with_extension("new");
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        let mut file = std::fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    });
    written.map_err(|e| disk("write", path, &e))
}

fn disk(what: &str, path: &Path, error: &std::io::Error) -> Fault {
    Fault::unavailable(reason::DISK, format!("cannot {what} {}: {error}", path.display()))
}
