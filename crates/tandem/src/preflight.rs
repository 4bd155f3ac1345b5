//! Looks, before anything starts, for everything that would stop the start: all of it is said at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};

use tandem_agents::checks::{self, Check, Grade, Room};
use tandem_engine::catalogue::{self, Entry, State, Store};
use tandem_fleet::{Plan, RolePlan};
use tandem_node::Layout;
use tandem_types::{Fault, GroupId, NodeName, Role};

use crate::fleet;

/// Everything that keeps this machine's groups from starting, in words with what to do. Those that `run` already have
/// their ports.
pub(crate) fn obstacles(plan: &Plan, node: &NodeName, layout: &Layout, run: &BTreeSet<&GroupId>) -> Vec<String> {
    let mut found = ports(plan, node, run);
    let wrong = folder(layout).into_iter().filter(|check| check.grade == Grade::Fail);
    found.extend(wrong.map(|check| format!("{}; {}", check.detail, check.remedy)));
    found
}

/// Addresses that this node's groups and its page listen at, without those of groups that `run`.
pub(crate) fn addresses(plan: &Plan, node: &NodeName, run: &BTreeSet<&GroupId>) -> Vec<(SocketAddr, String)> {
    let groups = plan.nodes.get(node).into_iter().flat_map(|n| &n.groups);
    let groups = groups.filter(|g| g.built() && !run.contains(&g.id));
    let mut all: Vec<(SocketAddr, String)> = groups
        .flat_map(|g| [(g.contract, format!("group {}", g.id)), (g.scrape, format!("scrapers of group {}", g.id))])
        .collect();
    let served = fleet::page_group(plan, node).is_some_and(|group| !run.contains(&group.id));
    let page = plan.web.as_ref().filter(|_| served);
    all.extend(page.map(|web| (web.listen, "the page".to_owned())));
    all
}

/// Ports that somebody else has, and addresses that this machine does not have.
pub(crate) fn ports(plan: &Plan, node: &NodeName, run: &BTreeSet<&GroupId>) -> Vec<String> {
    let mut absent: BTreeSet<IpAddr> = BTreeSet::new();
    let mut found = Vec::new();
    for (address, who) in addresses(plan, node, run) {
        let Err(error) = TcpListener::bind(address) else { continue };
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "another program has the port; `ss -ltnp sport = :{}` shows which, or set another one in the fleet file",
                address.port()
            ),
            // Nothing can listen there, whatever the port.
            std::io::ErrorKind::AddrNotAvailable => {
                absent.insert(address.ip());
                continue;
            }
            _ => format!("{error}; check the address in the fleet file"),
        };
        found.push(format!("cannot listen at {address} for {who}: {remedy}"));
    }
    let lacking = |ip: &IpAddr| {
        format!(
            "this machine does not have the address {ip} of node {node}; bring its network up, or correct `address` in the \
             fleet file"
        )
    };
    absent.iter().map(lacking).chain(found).collect()
}

/// Whether the data directory can be used.
pub(crate) fn folder(layout: &Layout) -> Vec<Check> {
    match layout.make() {
        Ok(()) => checks::data_folder(layout.data(), Room::default()),
        Err(fault) => {
            let (what, remedy) = fault.message.split_once("; ").unwrap_or((fault.message.as_str(), "use --data DIR"));
            vec![Check::fail(checks::WRITABLE, what, remedy)]
        }
    }
}

/// The models that a fleet's roles choose on this machine, with the roles each is for, in the order of their names.
pub(crate) fn chosen(plan: &Plan) -> Result<Vec<(String, Vec<Role>)>, Fault> {
    let (models, _) = catalogue::built_in()?;
    let ram_bytes = tandem_agents::machine::here().ram_mib << 20;
    let mut found: Vec<(String, Vec<Role>)> = Vec::new();
    for (role, bound) in plan.roles.iter().filter(|(_, bound)| bound.alias.is_none()) {
        let name = match &bound.model {
            Some(model) => Some(model.clone()),
            None => catalogue::choose(&models, role, ram_bytes, budget(plan, bound)).model.map(|m| m.name.clone()),
        };
        let Some(name) = name else { continue };
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, roles)) => roles.push(role.clone()),
            None => found.push((name, vec![role.clone()])),
        }
    }
    found.sort();
    Ok(found)
}

/// What pays for a role's model: the least of its homes' RAM and of the role's own bound.
fn budget(plan: &Plan, bound: &RolePlan) -> Option<u64> {
    let manager = plan.groups().filter(|g| g.agents.iter().any(|a| a.name.as_str() == "ModelManagerSuite"));
    let homes: Vec<_> = match bound.home.is_empty() {
        true => manager.collect(),
        false => bound.home.iter().filter_map(|id| plan.group(id)).collect(),
    };
    let mib = homes.iter().filter_map(|group| group.ram_mib).chain(bound.max_mib).min()?;
    Some(mib << 20)
}

/// Models that the fleet wants and that are not here, each with what to do and what happens until then.
pub(crate) fn missing_models(plan: &Plan) -> Result<Vec<String>, Fault> {
    let store = Store::open()?;
    let here = store.list()?;
    let mut missing = Vec::new();
    for (name, roles) in chosen(plan)? {
        let Entry { state, .. } = store.look(&name)?;
        let what = match state {
            State::Present => continue,
            State::Corrupt(why) => format!("is here and {why}"),
            State::Partial(bytes) => format!("is not whole ({} MiB are here)", bytes >> 20),
            State::Absent => "is not here".into(),
        };
        let stands_in = |role: &Role| {
            let free = plan.role(role).is_some_and(|bound| bound.model.is_none());
            let suits = |entry: &&Entry<'_>| entry.state == State::Present && entry.model.roles.contains(role);
            here.iter().filter(|_| free).filter(suits).max_by_key(|entry| entry.model.quality)
        };
        let until = roles.iter().map(|role| match stands_in(role) {
            Some(entry) => format!("{} answers for {role}", entry.model.name),
            None => format!("the answer is `no model for {role}`"),
        });
        let until = until.collect::<Vec<_>>().join(", ");
        missing.push(format!("model {name} {what}: `tandem models pull {name}` gets it; until then {until}"));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Source;

    fn solo() -> (Plan, NodeName) {
        let source = Source { name: "solo".into(), text: tandem_fleet::SOLO.into() };
        let node: NodeName = "solo".parse().unwrap();
        (source.plan(Some(&node)).unwrap(), node)
    }

    #[test]
    fn every_taken_port_is_named_at_once() {
        let (mut plan, node) = solo();
        let taken: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let at = |i: usize| taken[i].local_addr().unwrap();
        let groups = &mut plan.nodes.get_mut(&node).unwrap().groups;
        for group in groups.iter_mut() {
            (group.contract, group.scrape) = ("127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        }
        let built = groups.iter_mut().find(|g| g.built()).unwrap();
        (built.contract, built.scrape) = (at(0), at(1));
        plan.web.as_mut().unwrap().listen = at(2);
        let found = ports(&plan, &node, &BTreeSet::new());
        assert_eq!(found.len(), 3, "{found:?}");
        for (words, i) in found.iter().zip(0..) {
            assert!(words.contains(&at(i).to_string()) && words.contains("ss -ltnp"), "{words}");
        }
        let id = plan.groups().find(|g| g.contract == at(0)).unwrap().id.clone();
        let found = ports(&plan, &node, &BTreeSet::from([&id]));
        assert!(found.iter().all(|words| !words.contains(&id.to_string())), "it runs already: {found:?}");
    }

    #[test]
    fn an_address_that_is_not_here_is_one_obstacle() {
        let (mut plan, node) = solo();
        // 192.0.2.0/24 is for documents (RFC 5737): no machine has it.
        let away = SocketAddr::new("192.0.2.1".parse().unwrap(), 0);
        for group in &mut plan.nodes.get_mut(&node).unwrap().groups {
            (group.contract, group.scrape) = (away, away);
        }
        plan.web.as_mut().unwrap().listen = "127.0.0.1:0".parse().unwrap();
        let found = ports(&plan, &node, &BTreeSet::new());
        assert!(matches!(&found[..], [words] if words.contains("192.0.2.1")), "{found:?}");
    }

    #[test]
    fn only_the_node_of_the_page_listens_for_it() {
        let source = Source { name: "two".into(), text: tandem_fleet::MAINPC_PC2.into() };
        let plan = source.plan(None).unwrap();
        let pages = |node: &str| {
            let all = addresses(&plan, &node.parse().unwrap(), &BTreeSet::new());
            all.iter().filter(|(_, who)| who == "the page").count()
        };
        assert_eq!((pages("mainpc"), pages("pc2")), (0, 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let layout = Layout::new(file.join("data"), Some(folder.path())).unwrap();
        let found = super::folder(&layout);
        let [check] = &found[..] else { panic!("{found:?}") };
        assert_eq!(check.grade, Grade::Fail);
        assert!(check.detail.contains("file/data") && check.remedy.contains("--data"), "{check:?}");
    }

    #[test]
    fn roles_choose_models_of_the_catalogue() {
        let chosen = chosen(&solo().0).unwrap();
        let (models, _) = catalogue::built_in().unwrap();
        assert!(chosen.iter().any(|(_, roles)| roles.iter().any(|r| r.as_str() == "llm.tiny")), "{chosen:?}");
        for (name, _) in chosen {
            models.model(&name).unwrap();
        }
    }
}
