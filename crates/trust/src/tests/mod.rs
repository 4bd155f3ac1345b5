//! The life of fleets, on virtual time and real files.

mod crashes;
mod files;
mod handshakes;
mod invitations;
mod life;

use std::time::{Duration, SystemTime};

use tandem_types::NodeName;
use tempfile::TempDir;

use crate::{Folder, Founder, INVITATION, Invitation, Joining, Member};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const AT: &str = "10.77.0.1:8190";

/// A moment like any other.
pub(super) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// A machine's folder of trust, with nothing in it.
pub(super) struct Machine {
    /// Removed with the machine.
    _root: TempDir,
    pub(super) folder: Folder,
}

impl Machine {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path().join("trust")).unwrap();
        Self { _root: root, folder }
    }

    pub(super) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

/// A fleet that `mainpc` has just founded.
pub(super) fn founded(now: SystemTime) -> (Machine, Founder) {
    let machine = Machine::new();
    let founder = Founder::init(&machine.folder, "home", &node("mainpc"), now).unwrap();
    (machine, founder)
}

pub(super) fn invite(founder: &Founder, name: &str, now: SystemTime) -> Invitation {
    founder.invite(&node(name), INVITATION, &[AT.to_owned()], now).unwrap()
}

/// A machine that joins the fleet as `name`.
pub(super) fn joined(founder: &Founder, name: &str, now: SystemTime) -> (Machine, Member) {
    let machine = Machine::new();
    let member = join(&machine, founder, name, now);
    (machine, member)
}

pub(super) fn join(machine: &Machine, founder: &Founder, name: &str, now: SystemTime) -> Member {
    let line = invite(founder, name, now).text();
    let joining = Joining::new(&machine.folder, Invitation::read(&line, now).unwrap(), now).unwrap();
    let admission = founder.admit(&joining.request().unwrap(), now).unwrap();
    joining.finish(&admission, now).unwrap()
}
