//! Looks for what is wrong and says the remedy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use metrics::gauge;
use tandem_agent::FleetGroup;
use tandem_contract::Call;
use tandem_contract::contract_hash;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::models;
use tandem_types::{Fault, GroupId, Health, NodeName, Timestamp};

use super::{ASKING, SystemHand, logic, wire};
use crate::checks::{self, Check, Grade, Room};

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
        checks.extend([machine, sizes, roles, plan?].into_iter().flatten());
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

    /// Disk, clock, keys and limits of this machine.
    async fn check_machine(&self) -> Vec<Check> {
        let fleet = self.ctx.fleet();
        let open: Vec<&GroupId> =
            self.built_groups().filter(|group| !logic::stays_here(&group.endpoint)).map(|group| &group.id).collect();
        let mut checks = vec![logic::keys(&open)];
        let (folder, token) = (self.ctx.data_dir().to_owned(), fleet.web.token_file.clone());
        let room = Room { warn_below: self.settings.disk_warn_bytes, fail_below: self.settings.disk_fail_bytes };
        let now = self.now();
        let group = self.ctx.id().group_id();
        let planned = self.planned(&group).map_or(0, |planned| planned.ram_bytes);
        let looked = tokio::task::spawn_blocking(move || {
            let mut checks = checks::data_folder(&folder, room);
            checks.extend([checks::clock(now, &folder), checks::memory_limit(&group, planned)]);
            checks.extend(token.map(|file| checks::token_file(&file)));
            checks
        });
        checks.extend(looked.await.unwrap_or_else(|e| {
            vec![Check::fail("this machine", format!("could not be looked at: {e}"), "ask again")]
        }));
        checks
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

    /// Whether the roles that the fleet file binds have models; one that it leaves out is missed by nobody.
    async fn check_roles(&self) -> Vec<Check> {
        let call = self.ctx.call().within(ASKING, Instant::now());
        match self.ctx.peers().unary(models::LIST_ROLES, Default::default(), &call).await {
            Ok(listed) => listed
                .roles
                .iter()
                .filter(|role| self.ctx.fleet().roles.contains_key(&role.role))
                .filter_map(|role| Some(logic::role(&role.role, &role.model, &Health::from(role.health.as_option()?))))
                .collect(),
            Err(fault) => {
                let remedy = "see `tandem status` for ModelManagerSuite";
                vec![Check::warn("models", format!("nobody says which there are: {}", fault.message), remedy)]
            }
        }
    }

    /// Findings about the fleet file, and shares of cards.
    async fn check_plan(&self) -> Result<Vec<Check>, Fault> {
        let fleet = self.ctx.fleet();
        Ok(match self.made_plan(&fleet.file_name, &fleet.text).await? {
            Ok(plan) => [checks::fleet_file(&plan.findings), checks::shares(&plan)].concat(),
            Err(refused) => checks::fleet_file(&refused.findings),
        })
    }
}
