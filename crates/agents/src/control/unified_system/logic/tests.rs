use proptest::prelude::*;
use tandem_store::actions::NewAction;

use super::*;
use crate::checks::Grade;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn names(list: &[&str]) -> Vec<AgentName> {
    list.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn whoever_needs_another_is_restarted_before_it() {
    let agents: Vec<(AgentName, Vec<AgentName>)> = [
        ("Registry", vec![]),
        ("Twin", vec!["Registry"]),
        ("Hand", vec!["Registry", "Twin", "Elsewhere"]),
        ("Other", vec!["Hand"]),
    ]
    .map(|(name, needs)| (name.parse().unwrap(), names(&needs)))
    .into();
    assert_eq!(recycle_order(&agents, None), names(&["Other", "Hand", "Twin", "Registry"]));
    let hand = "Hand".parse().unwrap();
    assert_eq!(recycle_order(&agents, Some(&hand)), names(&["Twin", "Registry", "Other", "Hand"]));
    let circle = [("A", vec!["B"]), ("B", vec!["A"])].map(|(name, needs)| (name.parse().unwrap(), names(&needs)));
    assert_eq!(recycle_order(&circle, None), names(&["A", "B"]));
}

proptest! {
    #[test]
    fn every_agent_is_restarted_once_and_after_those_that_need_it(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..20)) {
        let name = |n: usize| format!("A{n}").parse::<AgentName>().unwrap();
        // A need points to a lower number, so that there is no circle.
        let needs = |n: usize| edges.iter().filter(|(a, b)| *a == n && b < a).map(|(_, b)| name(*b)).collect();
        let agents: Vec<(AgentName, Vec<AgentName>)> = (0..8).map(|n| (name(n), needs(n))).collect();
        let order = recycle_order(&agents, None);
        prop_assert_eq!(order.len(), 8);
        let place = |agent: &AgentName| order.iter().position(|a| a == agent).unwrap();
        for (agent, needs) in &agents {
            for need in needs {
                prop_assert!(place(agent) < place(need), "{} before {}", agent, need);
            }
        }
    }
}

#[test]
fn answers_of_hosts_are_judged_by_what_was_ordered() {
    use ActionState::{Done, Failed, Pending};
    let agent: AgentId = "solo/a/A".parse().unwrap();
    let health = |state| Ok(Health::new(state, "", at(0)));
    let away = Fault::unavailable(reason::PEER_AWAY, "connection refused");
    let refused = Fault::new(Code::Conflict, reason::QUEUE_FULL, "busy");
    for (order, answer, outcome) in [
        (Order::Start, health(State::Ready), Done),
        (Order::Restart, health(State::Unavailable), Done),
        (Order::Restart, health(State::Starting), Failed),
        (Order::Restart, health(State::Failed), Failed),
        (Order::Stop, health(State::Stopped), Done),
        (Order::Stop, health(State::Draining), Failed),
        (Order::Start, Err(away.clone()), Pending),
        (Order::Start, Err(refused), Failed),
        (Order::Start, Err(Fault::unavailable(reason::DRAINING, "ends")), Failed),
    ] {
        assert_eq!(judge(order, &agent, answer.clone()).0, outcome, "{order:?} {answer:?}");
    }
    assert!(is_away(&away));
}

fn action(kind: &str, target: &str, state: ActionState, detail: &str) -> Action {
    let group = target.parse::<AgentId>().map_or_else(|_| target.parse().unwrap(), |id| id.group_id());
    let what = NewAction {
        kind: kind.into(),
        group,
        target: target.into(),
        actor: "cli".into(),
        reason: String::new(),
        drain_ms: 0,
    };
    Action { id: "1".into(), what, state, detail: detail.into(), fencing: 1, at: at(0), finished: None }
}

#[test]
fn its_own_restart_is_proved_by_being_there_again() {
    use ActionState::{Done, Failed, Pending, Running};
    let me: AgentId = "solo/infra_core/UnifiedSystemAgent".parse().unwrap();
    for (kind, target, state, detail, outcome) in [
        ("restart", "solo/infra_core/UnifiedSystemAgent", Running, "", Some(Done)),
        ("stop", "solo/infra_core/UnifiedSystemAgent", Running, "", Some(Failed)),
        ("restart", "solo/infra_core/ServiceRegistry", Running, "", Some(Failed)),
        ("recycle", "solo/infra_core", Running, LAST_STEP, Some(Done)),
        ("recycle", "solo/infra_core", Running, "", Some(Failed)),
        ("recycle", "solo/other", Running, LAST_STEP, Some(Failed)),
        ("restart", "solo/other/X", Pending, "", None),
    ] {
        let left = action(kind, target, state, detail);
        assert_eq!(after_restart(&left, &me).map(|(state, _)| state), outcome, "{kind} {target} {state}");
    }
    let pending = action("start", "solo/other/X", Pending, "");
    let hour = Duration::from_secs(3_600);
    assert_eq!((given_up(&pending, hour, at(3_599)), given_up(&pending, hour, at(3_600))), (false, true));
}

#[test]
fn the_packet_is_six_ones_and_sixteen_addresses() {
    let address = mac("0a:1B-2c:3d:4e:5f").unwrap();
    let packet = magic_packet(address);
    assert_eq!(packet[..6], [0xff; 6]);
    assert!(packet[6..].chunks(6).all(|copy| copy == [0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f]));
    for bad in
        ["", "0a:1b:2c:3d:4e", "0a:1b:2c:3d:4e:5f:60", "0a:1b:2c:3d:4e:5g", "a:1b:2c:3d:4e:5f", "+a:1b:2c:3d:4e:5f"]
    {
        assert_eq!(mac(bad), None, "{bad}");
    }
}

#[test]
fn checks_come_out_as_measured() {
    use Grade::{Fail, Pass, Warn};
    let node: NodeName = "pc2".parse().unwrap();
    let group: GroupId = "pc2/a".parse().unwrap();
    // Sent at 10 s, received at 14 s: the middle is 12 s, unsure by 2 s.
    for (theirs, grade) in [(12, Pass), (16, Pass), (17, Fail), (8, Pass), (7, Fail)] {
        assert_eq!(clocks(&node, at(theirs), at(10), at(14)).grade, grade, "{theirs}");
    }
    let health = |state| Health::new(state, "no file", at(0));
    for (model, state, grade) in [
        ("smol", State::Ready, Pass),
        ("smol", State::Starting, Warn),
        ("smol", State::Unavailable, Fail),
        ("", State::Unavailable, Fail),
    ] {
        assert_eq!(role("llm.fast", model, &health(state)).grade, grade, "{model} {state}");
    }
    let ours = ("plan", "contract");
    let with = |plan: &str| (group.clone(), plan.to_owned(), "contract".to_owned());
    assert_eq!(same_build(ours, &[with("plan")]).grade, Pass);
    let other = same_build(ours, &[with("plan"), with("older")]);
    assert_eq!((other.grade, other.detail.contains("pc2/a")), (Warn, true));
    let (back, there, lost) = (Ok(true), Ok(false), Err("no answer".to_owned()));
    for (outcomes, grade, word) in [
        (vec![back.clone(), back.clone()], Pass, "both ways"),
        (vec![back.clone(), there], Pass, "on the way there"),
        (vec![back, lost.clone()], Fail, "1400 bytes do not pass"),
        (vec![lost], Fail, "no message passes"),
    ] {
        let check = sizes(&node, &SIZES.into_iter().zip(outcomes).collect::<Vec<_>>());
        assert!(check.grade == grade && check.detail.contains(word), "{check:?}");
    }
}

#[test]
fn keys_are_missed_where_groups_listen_beyond_their_machine() {
    for (endpoint, here) in [
        ("http://127.0.0.1:8200", true),
        ("http://127.8.0.1:8200/", true),
        ("http://[::1]:8200", true),
        ("http://localhost:8200", true),
        ("http://0.0.0.0:8200", false),
        ("http://10.0.0.2:8200", false),
        ("http://[fd00::2]:8200", false),
        ("http://pc2:8200", false),
        ("", false),
    ] {
        assert_eq!(stays_here(endpoint), here, "{endpoint}");
    }
    let group: GroupId = "pc2/a".parse().unwrap();
    assert_eq!(keys(&[]).grade, Grade::Pass);
    let open = keys(&[&group]);
    assert!(open.grade == Grade::Warn && open.detail.contains("pc2/a") && !open.remedy.is_empty(), "{open:?}");
}

#[test]
fn scopes_are_of_the_plan() {
    let groups: BTreeMap<GroupId, Vec<AgentName>> = [("solo/a".parse().unwrap(), names(&["A"]))].into();
    for (scope, known) in [
        ("", true),
        ("solo", true),
        ("solo/a", true),
        ("solo/a/A", true),
        ("pc2", false),
        ("solo/b", false),
        ("solo/a/B", false),
        ("a b", false),
    ] {
        assert_eq!(scope_is_known(scope, &groups), known, "{scope}");
    }
}
