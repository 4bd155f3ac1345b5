//! From a fleet file to the plan of this machine, or to everything that is wrong with the file.

use std::path::Path;

use tandem_contract::{Channel, Client, Trust};
use tandem_fleet::{Document, Finding, GroupPlan, Plan, SOLO, Severity, render_findings};
use tandem_node::NodeStatus;
use tandem_trust::Folder;
use tandem_types::{Code, Fault, NodeName, reason};

use crate::cli::FleetArgs;
use crate::place::Place;
use crate::{facts, style};

/// The text of a fleet file.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// How it is called towards people.
    pub(crate) name: String,
    /// The text.
    pub(crate) text: String,
}

/// A plan and which of its nodes this machine is.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The text it was made of.
    pub(crate) source: Source,
    /// The plan.
    pub(crate) plan: Plan,
    /// This machine.
    pub(crate) node: NodeName,
}

impl Source {
    /// The file at `path`; else that of the fleet that this machine founded or joined; else the built-in fleet of one machine.
    pub(crate) fn open(path: Option<&Path>, place: Option<&Place>) -> Result<Self, Fault> {
        let own = place.map(|place| place.layout.own_fleet()).filter(|own| own.is_file());
        match (path, own) {
            (Some(path), _) => Ok(Self { name: path.display().to_string(), text: read(path)? }),
            (None, Some(own)) => Ok(Self { name: own.display().to_string(), text: read(&own)? }),
            (None, None) => Ok(Self { name: "solo (built in)".into(), text: SOLO.into() }),
        }
    }

    /// The file that the node of this data directory runs.
    pub(crate) fn running(path: &Path, name: &str) -> Result<Self, Fault> {
        Ok(Self { name: name.to_owned(), text: read(path)? })
    }

    fn document(&self) -> Document {
        Document::read(&self.name, &self.text)
    }

    /// The plan; `here` is checked against what this machine has. A refused file is shown with all findings.
    pub(crate) fn plan(&self, here: Option<&NodeName>) -> Result<Plan, Fault> {
        let facts = facts::gather(here)?;
        tandem_fleet::plan(&self.document(), &facts).map_err(|refused| {
            let message = refused.to_string();
            anstream::eprint!("{}", coloured(&refused.findings, &self.text));
            Fault::new(Code::InvalidArgument, reason::BAD_FIELD, message)
        })
    }

    /// Which node of the file this machine is: the one asked for, the one that it is in the fleet that it belongs to, the only one,
    /// or the one named like this machine.
    pub(crate) fn node(&self, asked: Option<&NodeName>, place: Option<&Place>) -> Result<Option<NodeName>, Fault> {
        let document = self.document();
        let known: Vec<&str> = document.fleet().node.keys().map(String::as_str).collect();
        let host = facts::host_name();
        let fleet = place.map(|place| Folder::open(place.layout.trust())?.fleet()).transpose()?.flatten();
        let member = fleet.map(|fleet| fleet.node);
        let wanted = match (asked, &known[..]) {
            (Some(asked), _) if !known.contains(&asked.as_str()) => {
                let message = format!("{} has no node `{asked}`; it has {}", self.name, known.join(", "));
                return Err(Fault::not_found(message));
            }
            (Some(asked), _) => Some(asked.as_str()),
            (None, [only]) => Some(*only),
            (None, _) if let Some(member) = member.as_ref().filter(|node| known.contains(&node.as_str())) => {
                Some(member.as_str())
            }
            (None, many) => many.iter().copied().find(|name| Some(*name) == host.as_deref()),
        };
        // A name that breaks the rules is a finding of the plan.
        Ok(wanted.and_then(|name| name.parse().ok()))
    }
}

/// The plan of this machine.
pub(crate) fn planned(args: &FleetArgs, place: Option<&Place>) -> Result<Planned, Fault> {
    let source = Source::open(args.fleet.as_deref(), place)?;
    let node = source.node(args.node.as_ref(), place)?;
    let plan = source.plan(node.as_ref())?;
    match node.filter(|node| plan.nodes.contains_key(node)) {
        Some(node) => Ok(Planned { source, plan, node }),
        None => {
            let known: Vec<&str> = plan.nodes.keys().map(NodeName::as_str).collect();
            let known = known.join(", ");
            Err(Fault::invalid_field("--node", format!("is not given: which of {known} is this machine?")))
        }
    }
}

/// The fleet's trust as it is on this machine.
pub(crate) fn trust(plan: &Plan, place: &Place) -> Trust {
    let nodes = plan.nodes.iter().flat_map(|(name, node)| {
        let lan = node.link.and_then(|link| link.lan).map(|lan| lan.ip());
        std::iter::once(node.address).chain(lan).map(|ip| (ip, name.clone()))
    });
    Trust::new(place.layout.trust(), nodes)
}

/// A caller of whoever serves the RPC at `path`, this node's agent first.
pub(crate) fn client(plan: &Plan, node: &NodeName, path: &str, place: &Place) -> Result<Client, Fault> {
    let path = path.trim_start_matches('/');
    let provider = plan.providers(path, node).into_iter().next();
    let reach = provider.and_then(|agent| plan.address(&agent.group_id(), node)).ok_or_else(|| {
        Fault::unavailable(reason::NOT_BUILT, format!("no agent of fleet {} serves {path}", plan.name))
    })?;
    let uri = reach.to_string().parse().map_err(|e| Fault::internal(format!("{reach} is no address: {e}")))?;
    Ok(Client::new(Channel::fleet(trust(plan, place)), uri))
}

/// The plan of the node that runs here; none, after it was said, where none does.
pub(crate) async fn here(place: &Place) -> Result<Option<Planned>, Fault> {
    match place.control().status().await {
        Ok(status) => running(place, &status).map(Some),
        Err(fault) if fault.reason == reason::PEER_AWAY => {
            style::complain(&style::bad("error"), &fault.message);
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// The plan that a running node follows.
pub(crate) fn running(place: &Place, status: &NodeStatus) -> Result<Planned, Fault> {
    let source = Source::running(&place.layout.fleet(), &status.fleet)?;
    let plan = source.plan(Some(&status.node))?;
    Ok(Planned { source, plan, node: status.node.clone() })
}

/// The agent that serves the page.
const WEB_AGENT: &str = "UnifiedWebAgent";

/// Where this node's page is, if it has one.
pub(crate) fn page(plan: &Plan, node: &NodeName) -> Option<String> {
    let group = page_group(plan, node)?;
    Some(format!("http://{}", plan.web.as_ref().map_or(group.contract, |web| web.listen)))
}

/// The group of a node that serves the page.
pub(crate) fn page_group<'p>(plan: &'p Plan, node: &NodeName) -> Option<&'p GroupPlan> {
    let mut groups = plan.nodes.get(node).into_iter().flat_map(|n| &n.groups);
    groups.find(|g| g.agents.iter().any(|a| a.built && a.name.as_str() == WEB_AGENT))
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path)
        .map_err(|e| Fault::new(Code::NotFound, reason::NO_SUCH, format!("cannot read {}: {e}", path.display())))
}

/// Findings as text, with the severity of each in its colour.
pub(crate) fn coloured(findings: &[Finding], text: &str) -> String {
    let severities = [Severity::Error, Severity::Warning, Severity::Note];
    let mut current = Severity::Note;
    let mut in_message = false;
    let mut paint = |line: &str| {
        let begun = severities.into_iter().find(|s| line.starts_with(&format!("{s}[")));
        if let (Some(severity), Some((head, rest))) = (begun, line.split_once(": ")) {
            (current, in_message) = (severity, true);
            return format!("{}: {}", of(current, head), strong(current, rest));
        }
        let bare = line.trim_start();
        in_message &= !bare.starts_with("--> ");
        let carets = bare.strip_prefix("| ").filter(|rest| rest.trim_start().starts_with('^'));
        match (carets, bare.strip_prefix("= fix: ")) {
            _ if in_message => strong(current, line),
            (Some(carets), _) => format!("{}{}", &line[..line.len() - carets.len()], of(current, carets)),
            (_, Some(fix)) => format!("{}= {} {fix}", &line[..line.len() - bare.len()], style::bold("fix:")),
            _ => line.to_owned(),
        }
    };
    let width = style::columns().unwrap_or(usize::MAX);
    render_findings(findings, text, width).lines().map(|line| paint(line) + "\n").collect()
}

fn of(severity: Severity, text: &str) -> String {
    match severity {
        Severity::Error => style::bad(text),
        Severity::Warning => style::warn(text),
        Severity::Note => style::dim(text),
    }
}

fn strong(severity: Severity, text: &str) -> String {
    if severity == Severity::Note { text.to_owned() } else { style::bold(text) }
}
