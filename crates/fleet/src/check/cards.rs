//! GPU cards and their shares.

use tandem_types::{GroupId, NodeName};

use super::names::parsed;
use super::{Pass, group_path, thousands};
use crate::finding::{Path, suggest};
use crate::gpu::{CardPlan, SharePlan, has_mig, reserve_mib, share_sm, share_vram_mib};
use crate::model::{Card, Sharing};

impl Pass<'_> {
    pub(super) fn cards(&mut self) {
        let nodes: Vec<NodeName> = self.plan.nodes.keys().cloned().collect();
        for node in &nodes {
            let at = Path::of(&["node", node.as_str(), "gpu"]);
            for (i, card) in self.fleet.node[node.as_str()].gpu.iter().enumerate() {
                let planned = self.card(node, i, card, &at.index(i));
                if let Some(plan) = self.plan.nodes.get_mut(node) {
                    plan.cards.push(planned);
                }
            }
        }
        let ids: Vec<GroupId> = self.plan.groups().map(|g| g.id.clone()).collect();
        for id in &ids {
            self.shares(id);
        }
        for node in &nodes {
            self.card_sums(node);
        }
    }

    /// The card as it is where somebody has looked, as the file says otherwise.
    fn card(&mut self, node: &NodeName, place: usize, stated: &Card, at: &Path) -> CardPlan {
        let looked = self.facts.machines.get(node).and_then(|m| m.cards.as_ref());
        let seen = looked.and_then(|cards| cards.get(place));
        let shown = |card: &Card| format!("{} ({} MiB, {} SM)", card.name, thousands(card.vram_mib), card.sm);
        match (looked, seen) {
            (Some(_), None) => {
                let message =
                    format!("card {place} of `{node}`, {}, is not there: its shares become shares of RAM", stated.name);
                self.report.warn("card-absent", at, message, "take the card out of the file, or check its driver");
            }
            (_, Some(seen)) if (seen.vram_mib, seen.sm) != (stated.vram_mib, stated.sm) => {
                let message = format!("card {place} of `{node}` is {}, not {}", shown(seen), shown(stated));
                self.report.warn("card-differs", at, message, "correct the file; shares are of the card that is there");
            }
            _ => {}
        }
        let card = seen.unwrap_or(stated);
        let mig = has_mig(&card.name);
        if let Some(i) = stated.sharing.iter().position(|s| *s == Sharing::Mig).filter(|_| !mig) {
            let message = format!("{} cannot be divided by MIG: cards of its kind do not have it", card.name);
            let fix = "take \"mig\" out; shares are kept by MPS, or not enforced where that fails";
            self.report.warn("mig-unavailable", &at.key("sharing").index(i), message, fix);
        }
        let wanted = if stated.sharing.is_empty() { &[Sharing::Mps, Sharing::TimeSlice][..] } else { &stated.sharing };
        CardPlan {
            name: card.name.clone(),
            vram_mib: card.vram_mib,
            sm: card.sm,
            present: looked.map(|_| seen.is_some()),
            reserve_mib: reserve_mib(card.vram_mib),
            sharing: wanted.iter().copied().filter(|s| mig || *s != Sharing::Mig).collect(),
            shares: Vec::new(),
        }
    }

    /// The shares that a group's host runs: its own and those of others.
    fn shares(&mut self, id: &GroupId) {
        let Some(share) = &self.fleet.group[&id.to_string()].gpu else { return };
        let at = group_path(id).key("gpu");
        let place = share.card as usize;
        let cards = self.plan.nodes.get(&id.node).map_or(0, |n| n.cards.len());
        if place >= cards {
            let message = format!("`{id}` has a share of card {place}, and `{}` has {cards} in the file", id.node);
            self.report.error(
                "no-card",
                &at.key("card"),
                message,
                format!("add `[[node.{}.gpu]]`, or take `gpu` out", id.node),
            );
            return;
        }
        let mut wanted = vec![(id.clone(), share.share, at.key("share"))];
        for (i, slot) in share.overflow.iter().enumerate() {
            let at = at.key("overflow").index(i);
            let Some(owner) = parsed::<GroupId>(&slot.owner, &at.key("for"), &mut self.report) else { continue };
            if owner == *id || !self.fleet.group.contains_key(&slot.owner) {
                let others = self.fleet.group.keys().map(String::as_str).filter(|g| *g != id.to_string());
                let fix = suggest(&slot.owner, others, "name another group");
                let message = format!("an overflow share of `{id}` is for `{owner}`, which is no other group");
                self.report.error("unknown-group", &at.key("for"), message, fix);
                continue;
            }
            wanted.push((owner, slot.share, at.key("share")));
        }
        for (owner, percent, at) in wanted {
            let Some(card) = self.plan.nodes.get_mut(&id.node).and_then(|n| n.cards.get_mut(place)) else { continue };
            let (vram_mib, sm) = (share_vram_mib(card.vram_mib, percent), share_sm(card.sm, percent));
            let share = SharePlan { owner, run_by: id.clone(), card: place, percent, vram_mib, sm };
            card.shares.push(share.clone());
            if percent > 0 && (vram_mib == 0 || sm == 0) {
                let message =
                    format!("{percent} % of {} is {vram_mib} MiB and {sm} SM: nothing can run in it", card.name);
                self.report.error("share-empty", &at, message, "make the share larger");
            }
            if let Some(group) = self.group_mut(id) {
                if share.owner == *id { group.gpu = Some(share) } else { group.overflow.push(share) }
            }
        }
    }

    fn card_sums(&mut self, node: &NodeName) {
        for (i, card) in self.plan.nodes[node].cards.iter().enumerate() {
            let at = Path::of(&["node", node.as_str(), "gpu"]).index(i);
            let sum: u32 = card.shares.iter().map(|s| s.percent).sum();
            let parts: Vec<String> = card.shares.iter().map(|s| format!("{} {} %", s.owner, s.percent)).collect();
            let parts = parts.join(", ");
            if sum > 100 {
                let message = format!("shares of card {i} of `{node}` add up to {sum} %: {parts}");
                self.report.error("gpu-over", &at, message, format!("take {} % off them", sum - 100));
            } else if sum == 100 {
                let message = format!("shares of card {i} of `{node}` add up to 100 % and leave no reserve: {parts}");
                let fix = format!(
                    "lower one; only the {} MiB taken off beforehand are left for the display and fragmentation",
                    thousands(card.reserve_mib)
                );
                self.report.warn("gpu-full", &at, message, fix);
            }
        }
    }
}
