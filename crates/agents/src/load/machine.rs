//! Measures the machine: what the kernel says, and nothing else.
//!
//! The files are those of proc(5) and the kernel's page on pressure stall information.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tandem_types::GroupId;

use super::figures::Figures;
use super::processes::Processes;
use crate::cards::Driver;
use crate::machine::{CGROUP, PROC, disk, memory};

/// Times of all processors together, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

/// Measures one machine, again and again.
#[derive(Debug)]
pub(crate) struct Machine {
    proc: PathBuf,
    cgroup: PathBuf,
    data: PathBuf,
    cards: Driver,
    last: Option<Ticks>,
}

impl Machine {
    /// Measures this machine; its disk is the one that `data` is on.
    pub(crate) fn new(data: PathBuf) -> Self {
        Self { proc: PROC.into(), cgroup: CGROUP.into(), data, cards: Driver::open(), last: None }
    }

    /// Measures now; `processes` are looked at where some use a card. Blocks for as long as the disk takes to say how full it
    /// is.
    pub(crate) fn measure<F: FnOnce() -> Processes>(&mut self, processes: &LazyCell<Processes, F>) -> Figures {
        let read = |name: &str| fs::read_to_string(self.proc.join(name)).ok();
        let ticks = read("stat").and_then(|text| ticks(&text));
        let memory = memory(&self.proc, &self.cgroup);
        let pressure = read("pressure/memory").and_then(|text| pressure(&text));
        let disk = disk(&self.data).ok();
        let cpu_ratio = self.last.zip(ticks).and_then(|(before, now)| busy(before, now));
        self.last = ticks.or(self.last);
        Figures {
            cpu_ratio,
            ram_total: memory.map(|memory| memory.total),
            ram_used: memory.and_then(|memory| Some(memory.total.saturating_sub(memory.available?))),
            memory_pressure: pressure,
            disk_total: disk.map(|disk| disk.total()),
            disk_used: disk.map(|disk| disk.used),
            cards: self.cards.cards().into_iter().map(|card| card.told_by(|uses| by_group(uses, processes))).collect(),
        }
    }
}

fn by_group<F: FnOnce() -> Processes>(
    uses: BTreeMap<u32, u64>,
    processes: &LazyCell<Processes, F>,
) -> BTreeMap<GroupId, u64> {
    if uses.is_empty() { BTreeMap::new() } else { processes.by_group(uses) }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. Guest time is part of user.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4).copied().unwrap_or(0);
    Some(Ticks { idle, all: fields.iter().sum() })
}

/// Busy share between two looks; none when no tick passed.
fn busy(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    // Waiting for input may go back by a tick when a processor sleeps.
    let idle = now.idle.saturating_sub(before.idle).min(all);
    Some((all - idle) as f64 / all as f64)
}

/// `avg10` of the line `some` in `/proc/pressure/memory`, as a share.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> LazyCell<Processes> {
        LazyCell::new(Processes::default)
    }

    #[test]
    fn what_processes_take_of_cards_is_their_groups() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path().join("proc");
        for (pid, parent, line) in [(41, 40, "tandem-llama"), (40, 1, "tandem serve pc2/reasoning_gpu")] {
            let folder = proc.join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("status"), format!("PPid:\t{parent}\n")).unwrap();
            fs::write(folder.join("cmdline"), line.replace(' ', "\0")).unwrap();
        }
        let cards = crate::cards::tests::driver(folder.path(), 41);
        let data = folder.path().to_owned();
        let mut machine = Machine { proc: proc.clone(), cgroup: data.clone(), data, cards, last: None };
        let processes = LazyCell::new(|| Processes::look(&proc, &"pc2".parse().unwrap(), b"tandem"));
        let uses: Vec<_> = machine.measure(&processes).cards.into_iter().map(|card| card.uses).collect();
        assert_eq!(uses, [[("pc2/reasoning_gpu".parse().unwrap(), 1 << 30)].into(), [].into()]);
    }

    const STAT: &str = "cpu  100 5 50 800 40 1 3 1 7 0\ncpu0 50 5 25 400 20 1 3 1 7 0\nintr 1 2 3\n";

    #[test]
    fn processor_time_is_what_was_not_idle() {
        let before = ticks(STAT).unwrap();
        assert_eq!(before, Ticks { idle: 840, all: 1000 });
        let now = Ticks { idle: 840 + 150, all: 1000 + 200 };
        assert_eq!(busy(before, now), Some(0.25));
        for (now, expected) in [
            (before, None),
            (Ticks { idle: 0, all: 900 }, None),
            (Ticks { idle: 839, all: 1010 }, Some(1.0)),
            (Ticks { idle: 900, all: 1010 }, Some(0.0)),
        ] {
            assert_eq!(busy(before, now), expected, "{now:?}");
        }
        for broken in ["", "cpu0 1 2 3 4", "cpu  a b c d", "cpu  1 2"] {
            assert_eq!(ticks(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn pressure_is_a_share() {
        let text = "some avg10=12.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(0.125));
        assert_eq!(pressure("full avg10=1.00"), None);
    }

    #[test]
    fn this_machine_can_be_measured() {
        let folder = tempfile::tempdir().unwrap();
        let figures = Machine::new(folder.path().to_owned()).measure(&nobody());
        let (total, used) = (figures.ram_total.unwrap(), figures.ram_used.unwrap());
        assert!(used > 0 && used < total, "{figures:?}");
        let (total, used) = (figures.disk_total.unwrap(), figures.disk_used.unwrap());
        assert!(used <= total, "{figures:?}");
        assert_eq!(figures.cpu_ratio, None, "one look says nothing about a time");
    }

    #[test]
    fn what_the_kernel_does_not_say_is_absent() {
        let empty = tempfile::tempdir().unwrap();
        let mut machine = Machine {
            proc: empty.path().to_owned(),
            cgroup: empty.path().to_owned(),
            data: empty.path().join("gone"),
            cards: Driver::at(empty.path().join("none.so").as_os_str()),
            last: None,
        };
        assert_eq!(machine.measure(&nobody()), Figures::default());
    }
}
