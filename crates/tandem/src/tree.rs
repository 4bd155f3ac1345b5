//! The tree of node, groups and agents as lines: columns that stand below each other, causes where there is room.

use serde_json::Value;
use tandem_fleet::Plan;
use tandem_node::{GroupState, GroupStatus, NodeStatus};
use tandem_types::{State, Timestamp};

use crate::logs::last_words;
use crate::style;

/// One line of the tree.
struct Row {
    /// What leads to it.
    branch: String,
    /// What leads past it.
    stem: String,
    name: String,
    state: GroupState,
    age: String,
    memory: String,
    /// Restarts and port.
    more: String,
    /// Why it is so.
    notes: Vec<String>,
    is_group: bool,
}

/// The tree of a node for a terminal of `width` columns. `healths` are what its groups say of themselves, in their
/// order; agents of a group that says nothing come from the plan.
pub(crate) fn tree(
    status: &NodeStatus,
    healths: &[Option<Value>],
    plan: Option<&Plan>,
    now: Timestamp,
    width: usize,
) -> String {
    let rows: Vec<Row> = status
        .groups
        .iter()
        .zip(healths)
        .enumerate()
        .flat_map(|(i, (group, health))| rows(group, health.as_ref(), plan, now, i + 1 == status.groups.len()))
        .collect();
    let mut out = head(status, healths, now);
    for line in limits(status).iter().flat_map(|line| style::wrapped(line, width)) {
        out += &format!("{}\n", style::dim(&line));
    }
    let column = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let names = column(|row| row.branch.chars().count() + row.name.chars().count());
    let states = column(|row| row.state.as_str().len());
    let (ages, memory) = (column(|row| row.age.len()), column(|row| row.memory.len()));
    for row in &rows {
        let taken = row.branch.chars().count() + row.name.chars().count();
        let name = if row.is_group { style::bold(&row.name) } else { row.name.clone() };
        out += &format!("{}{name}{}  ", style::dim(&row.branch), " ".repeat(names - taken));
        let facts = format!("{:>ages$}  {:>memory$}  {}", row.age, row.memory, row.more);
        let used = names + 2 + states + 2 + facts.chars().count() + 2;
        let beside = row.notes.first().filter(|note| row.notes.len() == 1 && used + note.chars().count() <= width);
        let word = row.state.as_str();
        match beside {
            Some(note) => {
                let pad = if row.more.is_empty() { "" } else { "  " };
                let state = style::state(row.state, &format!("{word:<states$}"));
                out += &format!("{state}  {}{pad}{note}\n", style::dim(&facts));
            }
            None if facts.trim().is_empty() => out += &format!("{}\n", style::state(row.state, word)),
            None => {
                let state = style::state(row.state, &format!("{word:<states$}"));
                out += &format!("{state}  {}\n", style::dim(facts.trim_end()));
            }
        }
        let below = if beside.is_some() { &[][..] } else { &row.notes[..] };
        let room = width.saturating_sub(row.stem.chars().count() + 2).max(20);
        for line in below.iter().flat_map(|note| style::wrapped(note, room)) {
            out += &format!("{}  {line}\n", style::dim(&row.stem));
        }
    }
    out
}

fn head(status: &NodeStatus, healths: &[Option<Value>], now: Timestamp) -> String {
    let groups = status.groups.iter().zip(healths).filter(|(group, _)| group.state != GroupState::NotBuilt);
    let states: Vec<GroupState> = groups.map(|(group, health)| said(group, health.as_ref())).collect();
    let serving = states.iter().filter(|s| matches!(s, GroupState::Ready | GroupState::Degraded)).count();
    let engines: u64 = healths.iter().flatten().flat_map(|h| list(h, "engines")).filter_map(bytes).sum();
    let engines = if engines > 0 { format!(", engines {}", style::mib(engines)) } else { String::new() };
    let rss = status.groups.iter().filter_map(|g| g.rss_bytes).sum::<u64>() + status.rss_bytes.unwrap_or(0);
    let hash = &status.plan_hash[..12.min(status.plan_hash.len())];
    format!(
        "{}  up {}, {serving} of {} groups serve, memory {}{engines}\n{}\n",
        style::bold(status.node.as_str()),
        age(status.since, now),
        states.len(),
        style::mib(rss),
        style::dim(&format!("fleet {}, plan {hash}, process {}", status.fleet, status.pid)),
    )
}

/// What holds the groups to their limits: once where it is the same for all, else with the groups it is so for.
fn limits(status: &NodeStatus) -> Vec<String> {
    let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
    for group in status.groups.iter().filter(|group| group.pid.is_some()) {
        let (kind, name) = (group.limits.enforcement.as_str(), group.group.group.as_str());
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, names)) => names.push(name),
            None => kinds.push((kind, vec![name])),
        }
    }
    match &kinds[..] {
        [(kind, _)] => vec![format!("limits {kind}")],
        several => several.iter().map(|(kind, names)| format!("limits of {}: {kind}", names.join(", "))).collect(),
    }
}

/// The state of a group: its own word where it has one, because what the node heard may be half a minute old.
fn said(group: &GroupStatus, health: Option<&Value>) -> GroupState {
    let word = health.and_then(|h| h["state"].as_str()).and_then(|word| word.parse::<State>().ok());
    match group.state {
        GroupState::Ready | GroupState::Degraded | GroupState::Unavailable | GroupState::Failed => {
            match word.map_or(group.state, GroupState::from) {
                // A group does not know that it is slow.
                GroupState::Ready if !group.notice.is_empty() => group.state,
                own => own,
            }
        }
        other => other,
    }
}

fn rows(group: &GroupStatus, health: Option<&Value>, plan: Option<&Plan>, now: Timestamp, last: bool) -> Vec<Row> {
    let (branch, stem) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    let state = said(group, health);
    let cause = health.and_then(|h| h["cause"].as_str()).unwrap_or(&group.reason);
    let mut notes: Vec<String> = (!matches!(state, GroupState::Ready | GroupState::NotBuilt) && !cause.is_empty())
        .then(|| cause.into())
        .into_iter()
        .collect();
    if !group.notice.is_empty() && !notes.iter().any(|note| note.contains(&group.notice)) {
        notes.push(group.notice.clone());
    }
    notes.extend(group.last_exit.as_ref().map(|exit| {
        let line = last_words(&exit.evidence).map(|line| format!(": {line}")).unwrap_or_default();
        format!("last ended {} ago, {}{line}", age(exit.at, now), exit.how)
    }));
    if health.is_none() && group.state.runs() && group.state != GroupState::Starting {
        notes.push(format!("does not answer at port {}", group.port));
    }
    let children: Vec<Row> = match health {
        Some(health) => list(health, "agents").iter().chain(list(health, "engines")).map(child).collect(),
        None => planned(group, plan),
    };
    let port = group.state.runs().then(|| format!(":{}", group.port));
    let more = restarts(u64::from(group.restarts)).into_iter().chain(port).collect::<Vec<_>>().join("  ");
    let below = if children.is_empty() { "   " } else { "│  " };
    let own = Row {
        branch: branch.into(),
        stem: format!("{stem}{below}"),
        name: group.group.group.to_string(),
        state,
        age: if state == GroupState::NotBuilt { String::new() } else { age(group.since, now) },
        memory: group.rss_bytes.map(style::mib).unwrap_or_default(),
        more,
        notes,
        is_group: true,
    };
    let count = children.len();
    let placed = children.into_iter().enumerate().map(|(i, row)| {
        let (branch, past) = if i + 1 == count { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        Row { branch: format!("{stem}{branch}"), stem: format!("{stem}{past}"), ..row }
    });
    std::iter::once(own).chain(placed).collect()
}

/// An agent or an engine, as its group's health has it.
fn child(value: &Value) -> Row {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let built = value["built"].as_bool().unwrap_or(true);
    let state = text("state").parse::<State>().map_or(GroupState::Unavailable, GroupState::from);
    let name = match value["model"].as_str() {
        Some(model) => format!("engine {model}"),
        None => text("agent").rsplit('/').next().unwrap_or_default().to_owned(),
    };
    Row {
        age: value["age_ms"].as_u64().filter(|_| built).map(style::span).unwrap_or_default(),
        memory: bytes(value).map(style::mib).unwrap_or_default(),
        more: value["restarts"].as_u64().and_then(restarts).unwrap_or_default(),
        notes: Some(text("cause")).filter(|cause| built && !cause.is_empty()).map(str::to_owned).into_iter().collect(),
        ..bare(name, if built { state } else { GroupState::NotBuilt })
    }
}

/// The agents of a group that says nothing of them.
fn planned(group: &GroupStatus, plan: Option<&Plan>) -> Vec<Row> {
    let agents = plan.and_then(|plan| plan.group(&group.group)).map(|group| &group.agents[..]).unwrap_or_default();
    let state = match group.state {
        GroupState::Waiting | GroupState::Starting => GroupState::Waiting,
        state if state.runs() => return vec![],
        _ => GroupState::Stopped,
    };
    let of = |built: bool| if built { state } else { GroupState::NotBuilt };
    agents.iter().map(|agent| bare(agent.name.to_string(), of(agent.built))).collect()
}

fn bare(name: String, state: GroupState) -> Row {
    let (age, memory, more) = Default::default();
    Row { branch: String::new(), stem: String::new(), name, state, age, memory, more, notes: vec![], is_group: false }
}

fn list<'a>(health: &'a Value, key: &str) -> &'a [Value] {
    health[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn bytes(engine: &Value) -> Option<u64> {
    engine["measured_bytes"].as_u64()
}

fn restarts(number: u64) -> Option<String> {
    match number {
        0 => None,
        1 => Some("1 restart".into()),
        n => Some(format!("{n} restarts")),
    }
}

fn age(since: Timestamp, now: Timestamp) -> String {
    style::span(u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use serde_json::json;
    use tandem_node::{EndKind, ExitStatus, GroupSpec, Limits};

    use super::*;
    use crate::fleet::Source;

    fn shown(width: usize, kept: &str) -> String {
        let source = Source { name: "fleet.toml".into(), text: tandem_fleet::MAINPC_PC2.into() };
        let plan = source.plan(None).unwrap();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let group = |spec: &GroupSpec, state, reason: &str| GroupStatus {
            group: spec.id.clone(),
            state,
            reason: reason.into(),
            notice: String::new(),
            since: start.into(),
            pid: None,
            rss_bytes: None,
            restarts: 0,
            ready_ms: None,
            port: spec.contract.port(),
            scrape_port: spec.scrape.port(),
            limits: spec.limits.clone(),
            last_exit: None,
        };
        let specs = GroupSpec::of_plan(&plan, &"mainpc".parse().unwrap());
        let spec = |name: &str| specs.iter().find(|spec| spec.id.group.as_str() == name).unwrap();
        let ready = GroupStatus {
            rss_bytes: Some(11 << 20),
            pid: Some(8),
            limits: Limits { enforcement: kept.into(), ..spec("infra_core").limits.clone() },
            ..group(spec("infra_core"), GroupState::Ready, "")
        };
        let end = ExitStatus {
            kind: EndKind::Crash,
            how: "killed by SIGKILL".into(),
            at: start.into(),
            pid: Some(7),
            peak_bytes: None,
            evidence: vec!["its last words".into()],
        };
        let broken = GroupStatus {
            notice: "ended by itself 3 times in 10 minutes".into(),
            restarts: 2,
            pid: Some(9),
            limits: Limits { enforcement: "cgroup v1: CPU, tasks".into(), ..spec("coordination").limits.clone() },
            last_exit: Some(end),
            ..group(spec("coordination"), GroupState::Degraded, "what the node heard half a minute ago")
        };
        let missing = group(spec("vision_gpu"), GroupState::NotBuilt, "there is no code for any of its agents");
        let status = NodeStatus {
            node: "mainpc".parse().unwrap(),
            fleet: "fleet.toml".into(),
            plan_hash: "0123456789abcdef".into(),
            pid: 7,
            rss_bytes: Some(9 << 20),
            since: start.into(),
            settled: true,
            ending: false,
            forecast: None,
            healthy_ms: None,
            groups: vec![ready, broken, missing],
            usage: None,
            peers: vec![],
        };
        let agent = |name: &str, state: &str, cause: &str| json!({ "agent": name, "state": state, "cause": cause, "age_ms": 900, "built": true });
        let infra = json!({ "state": "ready", "agents": [
            agent("mainpc/infra_core/ServiceRegistry", "ready", ""),
            { "agent": "mainpc/infra_core/Later", "state": "unavailable", "cause": "not built", "built": false },
        ] });
        let cause = "ModelManagerSuite lost its engine and starts another one, which takes a moment";
        let coordination = json!({
            "state": "degraded", "cause": cause,
            "agents": [agent("mainpc/coordination/ModelManagerSuite", "degraded", "no engine")],
            "engines": [{ "model": "tiny", "state": "ready", "measured_bytes": 200 << 20 }],
        });
        let now = (start + Duration::from_millis(61_500)).into();
        let text = tree(&status, &[Some(infra), Some(coordination), None], Some(&plan), now, width);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn columns_stand_below_each_other_and_causes_keep_to_the_width() {
        let expected = "\
mainpc  up 1 min, 2 of 2 groups serve, memory 20.0 MiB, engines 200.0 MiB
fleet fleet.toml, plan 0123456789ab, process 7
limits cgroup v1: CPU, tasks
├─ infra_core               ready       1 min   11.0 MiB  :8200
│  ├─ ServiceRegistry       ready      900 ms
│  └─ Later                 not built
├─ coordination             degraded    1 min             2 restarts  :8201
│  │    ModelManagerSuite lost its engine and starts another one, which takes a
│  │    moment
│  │    ended by itself 3 times in 10 minutes
│  │    last ended 1 min ago, killed by SIGKILL: its last words
│  ├─ ModelManagerSuite     degraded   900 ms             no engine
│  └─ engine tiny           ready              200.0 MiB
└─ vision_gpu               not built
   └─ FaceRecognitionAgent  not built
";
        let both = "cgroup v1: CPU, tasks";
        assert_eq!(shown(80, both), expected);
        assert!(shown(200, both).contains("which takes a moment\n"), "{}", shown(200, both));
        let differ = shown(200, "not enforced: no control groups");
        let lines =
            "limits of infra_core: not enforced: no control groups\nlimits of coordination: cgroup v1: CPU, tasks\n";
        assert!(differ.contains(lines), "{differ}");
    }
}
