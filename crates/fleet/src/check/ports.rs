//! Ports: inside the whitelist, one listener each; what is not stated is given out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use tandem_types::{GroupId, NodeName};

use super::{Pass, group_path};
use crate::finding::Path;
use crate::plan::LinkPlan;

/// The two kinds of ports of a group.
#[derive(Clone, Copy)]
enum Kind {
    Contract,
    Scrape,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Contract, Self::Scrape];

    /// The key that states it.
    fn key(self) -> &'static str {
        match self {
            Self::Contract => "port",
            Self::Scrape => "scrape_port",
        }
    }

    /// The key that says which are allowed.
    fn whitelist(self) -> &'static str {
        match self {
            Self::Contract => "contract_ports",
            Self::Scrape => "scrape_ports",
        }
    }
}

/// Someone who listens.
struct Listener {
    at: SocketAddr,
    who: String,
}

impl Pass<'_> {
    pub(super) fn ports(&mut self) {
        let [contract, scrape] = Kind::ALL.map(|kind| self.whitelist(kind));
        if contract.start().max(scrape.start()) <= contract.end().min(scrape.end()) {
            let at = Path::of(&["fleet", "scrape_ports"]);
            self.report.error(
                "port-ranges-overlap",
                &at,
                "contract and scrape ports overlap",
                "keep the two ranges apart",
            );
        }
        let ids: Vec<GroupId> = self.plan.groups().map(|g| g.id.clone()).collect();
        let mut taken = self.web_listener();
        for id in &ids {
            for (kind, range) in Kind::ALL.into_iter().zip([&contract, &scrape]) {
                if let Some(port) = self.stated(id, kind) {
                    self.take(id, kind, port, range, &mut taken);
                }
            }
        }
        for id in &ids {
            for (kind, range) in Kind::ALL.into_iter().zip([&contract, &scrape]) {
                if self.stated(id, kind).is_none() {
                    self.give(id, kind, range, &mut taken);
                }
            }
        }
        self.links(&contract, &mut taken);
    }

    /// Ports where nodes speak with each other: stated, or the last free one, away from where groups are given theirs.
    fn links(&mut self, allowed: &RangeInclusive<u16>, taken: &mut Vec<Listener>) {
        let nodes: Vec<(NodeName, LinkPlan)> =
            self.plan.nodes.iter().filter_map(|(name, node)| Some((name.clone(), node.link?))).collect();
        let mut planned = BTreeMap::new();
        for (name, link) in nodes {
            let at = Path::of(&["node", name.as_str(), "link_port"]);
            let ip = link.overlay.ip();
            let used = |port: u16| taken.iter().find(|t| clash(t.at, SocketAddr::new(ip, port)));
            let free = allowed.clone().rev().find(|port| used(*port).is_none());
            let stated = self.fleet.node.get(name.as_str()).and_then(|node| node.link_port);
            let fix = free
                .map_or_else(|| "leave it out".into(), |p| format!("take a free one, such as {p}, or leave it out"));
            if let Some(port) = stated.filter(|port| !allowed.contains(port)) {
                let message = format!(
                    "`{name}` has link_port {port}, outside of {}-{}, which `contract_ports` allows",
                    allowed.start(),
                    allowed.end()
                );
                self.report.error("port-outside", &at, message, &fix);
            }
            if let Some((port, other)) = stated.and_then(|port| Some((port, used(port)?))) {
                let message =
                    format!("link_port {port} of `{name}` is taken: {} listens on {} too", other.who, other.at);
                self.report.error("port-clash", &at, message, fix);
            }
            let Some(port) = stated.or(free) else {
                let message = format!("no port of `contract_ports` is free for the link of `{name}`");
                self.report.error(
                    "ports-exhausted",
                    &Path::of(&["node", name.as_str()]),
                    message,
                    "widen `contract_ports`",
                );
                continue;
            };
            let at_port = |ip| SocketAddr::new(ip, port);
            taken.push(Listener { at: at_port(ip), who: format!("the link of `{name}`") });
            planned.insert(name, LinkPlan { overlay: at_port(ip), lan: link.lan.map(|lan| at_port(lan.ip())) });
        }
        for (name, link) in planned {
            self.plan.nodes.entry(name).and_modify(|node| node.link = Some(link));
        }
    }

    /// The allowed range of a kind of port; the default one when the stated one cannot be read.
    fn whitelist(&mut self, kind: Kind) -> RangeInclusive<u16> {
        let header = &self.fleet.fleet;
        let (text, default) = match kind {
            Kind::Contract => (&header.contract_ports, 8200..=8300),
            Kind::Scrape => (&header.scrape_ports, 9100..=9200),
        };
        let ends = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match ends {
            Some((from, to)) if from > 0 && from <= to => from..=to,
            _ => {
                let at = Path::of(&["fleet", kind.whitelist()]);
                let message = format!("{text:?} is not a range of ports");
                self.report.error(
                    "bad-ports",
                    &at,
                    message,
                    format!("write \"{}-{}\"", default.start(), default.end()),
                );
                default
            }
        }
    }

    fn web_listener(&self) -> Vec<Listener> {
        let listen = self.fleet.web.as_ref().and_then(|web| web.listen.parse().ok());
        listen.map(|at| Listener { at, who: "the web listener".into() }).into_iter().collect()
    }

    fn stated(&self, id: &GroupId, kind: Kind) -> Option<u16> {
        let group = self.fleet.group.get(&id.to_string())?;
        if matches!(kind, Kind::Contract) { group.port } else { group.scrape_port }
    }

    fn take(&mut self, id: &GroupId, kind: Kind, port: u16, allowed: &RangeInclusive<u16>, taken: &mut Vec<Listener>) {
        let at = group_path(id).key(kind.key());
        let Some(address) = self.plan.nodes.get(&id.node).map(|n| SocketAddr::new(n.address, port)) else { return };
        let free = allowed.clone().find(|p| !taken.iter().any(|t| clash(t.at, SocketAddr::new(address.ip(), *p))));
        let fix =
            free.map_or_else(|| "leave it out".into(), |p| format!("take a free one, such as {p}, or leave it out"));
        if !allowed.contains(&port) {
            let message = format!(
                "`{id}` has {} {port}, outside of {}-{}, which `{}` allows",
                kind.key(),
                allowed.start(),
                allowed.end(),
                kind.whitelist()
            );
            self.report.error("port-outside", &at, message, &fix);
        }
        if let Some(other) = taken.iter().find(|t| clash(t.at, address)) {
            let message = format!("{} of `{id}` is taken: {} listens on {} too", kind.key(), other.who, other.at);
            self.report.error("port-clash", &at, message, fix);
        }
        taken.push(Listener { at: address, who: format!("`{id}` ({})", kind.key()) });
        self.set(id, kind, address);
    }

    fn give(&mut self, id: &GroupId, kind: Kind, allowed: &RangeInclusive<u16>, taken: &mut Vec<Listener>) {
        let Some(ip) = self.plan.nodes.get(&id.node).map(|n| n.address) else { return };
        let mut addresses = allowed.clone().map(|port| SocketAddr::new(ip, port));
        let Some(address) = addresses.find(|a| !taken.iter().any(|t| clash(t.at, *a))) else {
            let message = format!("no port of `{}` is free for `{id}`", kind.whitelist());
            self.report.error("ports-exhausted", &group_path(id), message, format!("widen `{}`", kind.whitelist()));
            return;
        };
        taken.push(Listener { at: address, who: format!("`{id}` ({})", kind.key()) });
        self.set(id, kind, address);
    }

    fn set(&mut self, id: &GroupId, kind: Kind, address: SocketAddr) {
        let Some(group) = self.group_mut(id) else { return };
        match kind {
            Kind::Contract => {
                group.contract.set_port(address.port());
                group.overlay = group.overlay.map(|overlay| SocketAddr::new(overlay.ip(), address.port()));
            }
            Kind::Scrape => group.scrape.set_port(address.port()),
        }
    }
}

/// Whether two listeners cannot both be: the same port on the same address, or on all addresses.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |ip: IpAddr| ip.is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || all(a.ip()) || all(b.ip()))
}
