//! Looks for what is wrong and says the remedy.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::join_all;
use metrics::gauge;
use tandem_agent::FleetGroup;
use tandem_contract::Call;
use tandem_contract::contract_hash;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::models;
use tandem_fleet::Severity;
use tandem_types::{Fault, GroupId, Health, NodeName, Timestamp};

use super::logic::{self, Check, Grade};
use super::{ASKING, SystemHand, wire};

/// A group's answer with the times around it.
struct Asked {
    group: GroupId,
    answer: Result<pb::GetHealthResponse, Fault>,
    took: Duration,
    sent: Timestamp,
    received: Timestamp,
}

impl SystemHand {
    pub(super) async fn doctor(self: Arc<Self>, _: Call, _: pb::DoctorRequest) -> Result<pb::DoctorResponse, Fault> {
        let asked = join_all(self.built_groups().map(|group| self.ask(group))).await;
        let mut checks = self.check_groups(&asked);
        let (machine, sizes, roles, plan) =
            tokio::join!(self.check_machine(), self.check_sizes(&asked), self.check_roles(), self.check_plan());
        checks.extend([machine, sizes, roles, plan].into_iter().flatten());
        checks.sort_by_key(|check| check.grade);
        let failed = checks.iter().filter(|check| check.grade == Grade::Fail).count();
        gauge!("tandem_doctor_failed_checks").set(u32::try_from(failed).unwrap_or(u32::MAX));
        Ok(pb::DoctorResponse { checks: checks.into_iter().map(wire::check).collect(), ..Default::default() })
    }

    async fn ask(&self, group: &FleetGroup) -> Asked {
        let (sent, began) = (self.now(), Instant::now());
        let answer = self.health_of(&group.id, 0).await;
        Asked { group: group.id.clone(), answer, took: began.elapsed(), sent, received: self.now() }
    }

    /// Whether every group answers, with the same plan and contract, and clocks that agree.
    fn check_groups(&self, asked: &[Asked]) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut builds = Vec::new();
        for Asked { group, answer, took, sent, received } in asked {
            let health = |answer: &pb::GetHealthResponse| answer.health.as_option().map(Health::from);
            let unsaid = Fault::internal("the host did not say how the group is");
            let said = match answer {
                Ok(answer) => health(answer).map(|health| (health, *took)).ok_or(&unsaid),
                Err(fault) => Err(fault),
            };
            checks.push(logic::reached(group, said));
            let Ok(answer) = answer else { continue };
            builds.push((group.clone(), answer.plan_hash.clone(), answer.contract_hash.clone()));
            let told = checks.iter().any(|check| check.name == format!("clock: {}", group.node));
            if group.node != self.ctx.id().node && answer.now_us > 0 && !told {
                checks.push(logic::clocks(&group.node, Timestamp(answer.now_us), *sent, *received));
            }
        }
        checks.push(logic::same_build((&self.ctx.fleet().plan_hash, contract_hash()), &builds));
        checks
    }

    /// Disk, clock and limits of this machine.
    async fn check_machine(&self) -> Vec<Check> {
        let (folder, settings) = (self.ctx.data_dir().to_owned(), self.settings.clone());
        let now = self.now();
        let group = self.ctx.id().group_id();
        let planned = self.planned(&group).map_or(0, |planned| planned.ram_bytes);
        let looked = tokio::task::spawn_blocking(move || {
            let mut checks = check_folder(&folder);
            checks.push(check_room(&folder, settings.disk_warn_bytes, settings.disk_fail_bytes));
            checks.push(logic::clock_went_back(now, newest(&folder)));
            checks.push(logic::memory_limit(&group, memory_limit(), planned));
            checks
        });
        looked.await.unwrap_or_else(|e| vec![Check::fail("this machine", format!("could not be looked at: {e}"), "")])
    }

    /// Whether messages of all sizes pass to each machine, by way of a group that answers.
    async fn check_sizes(&self, asked: &[Asked]) -> Vec<Check> {
        let nodes = self.ctx.fleet().nodes.iter().map(|node| &node.name);
        let through = nodes.filter_map(|node| {
            let other = |asked: &&Asked| asked.group.node == *node && asked.group != self.ctx.id().group_id();
            let answering = asked.iter().filter(other).find(|asked| asked.answer.is_ok())?;
            Some(self.check_sizes_to(node, &answering.group))
        });
        join_all(through).await
    }

    async fn check_sizes_to(&self, node: &NodeName, group: &GroupId) -> Check {
        let mut tried = Vec::new();
        for size in logic::SIZES {
            let outcome = match self.health_of(group, size).await {
                Ok(answer) => Ok(answer.padding.len() == size),
                Err(fault) => Err(fault.message),
            };
            let lost = outcome.is_err();
            tried.push((size, outcome));
            // What is lost blocks the connection, so that larger ones would say nothing new.
            if lost {
                break;
            }
        }
        logic::sizes(node, &tried)
    }

    /// Whether the roles have models.
    async fn check_roles(&self) -> Vec<Check> {
        let call = self.ctx.call().within(ASKING, Instant::now());
        match self.ctx.peers().unary(models::LIST_ROLES, Default::default(), &call).await {
            Ok(listed) => listed
                .roles
                .iter()
                .filter_map(|role| Some(logic::role(&role.role, &role.model, &Health::from(role.health.as_option()?))))
                .collect(),
            Err(fault) => {
                let remedy = "see `tandem status` for ModelManagerSuite";
                vec![Check::warn("models", format!("nobody says which there are: {}", fault.message), remedy)]
            }
        }
    }

    /// Findings about the fleet file, and shares of cards.
    async fn check_plan(&self) -> Vec<Check> {
        let fleet = self.ctx.fleet();
        let planned = self.made_plan(&fleet.file_name, &fleet.text).await;
        let findings = match &planned {
            Ok(plan) => &plan.findings,
            Err(refused) => &refused.findings,
        };
        let mut checks: Vec<Check> = findings
            .iter()
            .filter(|finding| finding.severity != Severity::Note)
            .map(|finding| {
                let name = format!("fleet file: {}", finding.code);
                match finding.severity {
                    Severity::Error => Check::fail(name, finding.message.clone(), finding.fix.clone()),
                    _ => Check::warn(name, finding.message.clone(), finding.fix.clone()),
                }
            })
            .collect();
        if checks.is_empty() {
            checks.push(Check::pass("fleet file", "has no errors and no warnings"));
        }
        let shares = planned.iter().flat_map(|plan| plan.nodes.values()).flat_map(|node| &node.cards);
        for share in shares.flat_map(|card| &card.shares) {
            // Until an engine has seen its own limits, a share is a wish.
            let remedy = "none yet: what is loaded there is limited by what the model manager lends, not by the driver";
            checks.push(Check::warn(
                format!("share: {}", share.owner),
                "not enforced: nothing has verified it",
                remedy,
            ));
        }
        checks
    }
}

/// Whether the data folder can be written, and by nobody else.
fn check_folder(folder: &Path) -> Vec<Check> {
    let probe = folder.join(".doctor");
    let written =
        std::fs::write(&probe, b"written by the doctor").and_then(|()| std::fs::File::open(&probe)?.sync_all());
    let removed = std::fs::remove_file(&probe);
    let at = folder.display();
    let writable = match written.and(removed) {
        Ok(()) => Check::pass("disk: data folder", format!("{at} can be written")),
        Err(e) => Check::fail(
            "disk: data folder",
            format!("{at} cannot be written: {e}"),
            "make the folder writable for the user who runs Tandem",
        ),
    };
    let private = match std::fs::metadata(folder).map(|meta| meta.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 == 0 => Check::pass("disk: privacy", format!("only its owner can look into {at}")),
        Ok(mode) => Check::warn(
            "disk: privacy",
            format!("other users of this machine can look into {at} (mode {mode:o})"),
            format!("chmod 700 {at}"),
        ),
        Err(e) => Check::fail("disk: privacy", format!("{at} cannot be looked at: {e}"), ""),
    };
    vec![writable, private]
}

fn check_room(folder: &Path, warn_below: u64, fail_below: u64) -> Check {
    match nix::sys::statvfs::statvfs(folder) {
        Ok(disk) => {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
            logic::disk_room(bytes(disk.blocks_available()), bytes(disk.blocks()), warn_below, fail_below)
        }
        Err(e) => Check::fail("disk: room", format!("{} cannot be asked for its disk: {e}", folder.display()), ""),
    }
}

/// When the newest file of the folder was written.
fn newest(folder: &Path) -> Option<Timestamp> {
    let written = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.metadata().ok()?.modified().ok();
    std::fs::read_dir(folder).ok()?.filter_map(written).max().map(|at: SystemTime| at.into())
}

/// The lowest `memory.max` from the control group of this process upwards; none where nothing limits it
/// (Linux, "Control Group v2", "Memory Interface Files").
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = PathBuf::from("/sys/fs/cgroup");
    let limit = |folder: &Path| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse::<u64>().ok();
    let own = root.join(own);
    own.ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(limit).min()
}
