use proptest::prelude::*;
use tandem_types::State;

use super::*;

const TTL: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(20);
const RPC: &str = "/tandem.session.v1.Sessions/GetWindow";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn empty() -> Table {
    restored(tandem_store::leases::Table::default(), at(0))
}

fn restored(stored: tandem_store::leases::Table, now: Timestamp) -> Table {
    Table::restore(stored, Rules { ttl: TTL, grace: GRACE }, now).unwrap()
}

fn report(agent: &str, state: State, load: f32) -> Report {
    let agent: AgentId = agent.parse().unwrap();
    Report { agent, rpcs: vec![RPC.into()], health: Health::new(state, "", at(0)), load }
}

fn ask(group: &str, instance: &str, generation: u64) -> Registration {
    let body = Body {
        instance: instance.into(),
        endpoint: "http://127.0.0.1:1".into(),
        version: "1".into(),
        contract_hash: "c".into(),
        plan_hash: "p".into(),
        agents: vec![report(&format!("{group}/Agent"), State::Ready, 0.0)],
        warnings: vec![],
    };
    Registration { group: group.parse().unwrap(), generation, body }
}

/// Does what the store does with a change.
fn take(table: &mut Table, change: Change, now: Timestamp) -> Record {
    let line = |group: &GroupId| table.line(group).cloned();
    let revision = table.revision() + 1;
    let record = match change {
        Change::Own(lease) => {
            Record { revision, fencing: line(&lease.group).map_or(0, |l| l.fencing) + 1, lease, ended: None }
        }
        Change::Update(lease) => {
            let held = line(&lease.group).filter(|l| l.id == lease.id && l.ended.is_none()).expect("a held lease");
            Record { revision, fencing: held.fencing, lease, ended: None }
        }
        Change::End { group, id, reason } => {
            let held = line(&group).filter(|l| l.id == id && l.ended.is_none()).expect("a held lease");
            let lease = tandem_store::leases::Lease {
                id,
                generation: held.generation,
                expires: held.expires,
                body: serde_json::to_string(&held.body).unwrap(),
                group,
            };
            Record { revision, fencing: held.fencing, lease, ended: Some((now, reason)) }
        }
    };
    table.put(record.clone()).unwrap();
    record
}

fn register(table: &mut Table, asked: &Registration, id: &str, now: Timestamp) -> Result<String, Code> {
    let change = table.admit(asked, id, now).map_err(|fault| fault.code)?;
    Ok(take(table, change, now).lease.id)
}

fn expire(table: &mut Table, now: Timestamp) -> usize {
    let changes = table.expire(now);
    let ended = changes.len();
    changes.into_iter().for_each(|change| drop(take(table, change, now)));
    ended
}

#[test]
fn a_second_instance_is_refused_unless_it_started_later() {
    let mut table = empty();
    assert_eq!(register(&mut table, &ask("a/g", "one", 5), "l1", at(0)), Ok("l1".into()));
    for (instance, generation, outcome) in [
        ("one", 5, Ok("l1")),
        ("two", 4, Err(Code::Conflict)),
        ("two", 5, Err(Code::Conflict)),
        ("two", 6, Ok("l2")),
        ("one", 5, Err(Code::Conflict)),
    ] {
        let got = register(&mut table, &ask("a/g", instance, generation), "l2", at(1));
        assert_eq!(got.as_deref(), outcome.as_ref().map(|id| *id), "{instance} {generation}");
    }
    assert_eq!(table.line(&"a/g".parse().unwrap()).unwrap().fencing, 2);
    assert_eq!(table.renew("l1", vec![], at(2)).unwrap_err().code, Code::NotFound, "the first is fenced off");
    assert_eq!(table.renew("l2", vec![], at(2)), Ok(Renewal::Quiet));
}

#[test]
fn silence_ends_a_lease_at_its_time_and_frees_the_identity() {
    let mut table = empty();
    register(&mut table, &ask("a/g", "one", 5), "l1", at(0)).unwrap();
    expire(&mut table, at(5));
    assert_eq!(table.renew("l1", vec![], at(5)), Ok(Renewal::Quiet));
    assert_eq!(table.next_expiry(), Some(at(20)));
    assert_eq!(expire(&mut table, at(19)), 0);
    assert_eq!(table.renew("l1", vec![], at(20)).unwrap_err().code, Code::NotFound, "too late by nothing");
    assert_eq!(expire(&mut table, at(20)), 1);
    assert_eq!((expire(&mut table, at(21)), table.next_expiry()), (0, None));
    assert_eq!(register(&mut table, &ask("a/g", "two", 1), "l2", at(21)), Ok("l2".into()));
}

#[test]
fn after_its_own_absence_the_registry_waits_for_everybody() {
    let mut first = empty();
    register(&mut first, &ask("a/g", "one", 5), "l1", at(0)).unwrap();
    let change = first.admit(&ask("a/h", "two", 1), "l2", at(0)).unwrap();
    let records = vec![take(&mut first, change, at(0))];
    let stored = tandem_store::leases::Table { revision: first.revision(), records };
    let mut table = restored(stored, at(1_000));
    assert!(table.line(&"a/h".parse().unwrap()).unwrap().unconfirmed);
    expire(&mut table, at(1_010));
    assert_eq!(expire(&mut table, at(1_019)), 0);
    let renewal = table.renew("l2", vec![], at(1_019)).unwrap();
    let Renewal::Change(change) = renewal else { panic!("watchers learn that it is there again") };
    take(&mut table, change, at(1_019));
    assert!(!table.line(&"a/h".parse().unwrap()).unwrap().unconfirmed);
    assert_eq!(expire(&mut table, at(1_033)), 0);
    // The machine sleeps for an hour: nobody is blamed for the silence.
    assert_eq!(expire(&mut table, at(4_600)), 0);
    assert!(table.line(&"a/h".parse().unwrap()).unwrap().unconfirmed);
    assert_eq!((expire(&mut table, at(4_612)), expire(&mut table, at(4_620))), (0, 1));
}

#[test]
fn load_is_kept_and_states_are_told() {
    let mut table = empty();
    register(&mut table, &ask("a/g", "one", 1), "l1", at(0)).unwrap();
    let busy = Report { rpcs: vec![], ..report("a/g/Agent", State::Ready, 0.9) };
    assert_eq!(table.renew("l1", vec![busy.clone()], at(1)), Ok(Renewal::Quiet));
    let kept = table.line(&"a/g".parse().unwrap()).unwrap().body.agents[0].clone();
    assert_eq!((kept.load, kept.rpcs), (0.9, vec![RPC.to_owned()]), "no RPCs said is no change of them");
    let failed = Report { health: Health::new(State::Failed, "disk", at(2)), ..busy };
    assert!(matches!(table.renew("l1", vec![failed], at(2)), Ok(Renewal::Change(_))));
}

#[test]
fn providers_come_serving_local_confirmed_and_idle_first() {
    let mut table = empty();
    for (group, state, load) in [
        ("far/idle", State::Ready, 0.0),
        ("near/busy", State::Degraded, 0.8),
        ("near/idle", State::Ready, 0.1),
        ("near/broken", State::Failed, 0.0),
    ] {
        let mut asked = ask(group, "one", 1);
        asked.body.agents = vec![report(&format!("{group}/Agent"), state, load)];
        register(&mut table, &asked, group, at(0)).unwrap();
    }
    let ask = |node: Option<&str>, only_ready, from: Option<&str>| {
        let (node, caller_node) = (node.map(|n| n.parse().unwrap()), from.map(|n| n.parse().unwrap()));
        let query = Query { rpc: RPC.into(), node, only_ready, caller_node };
        let found = table.resolve(&query);
        found.into_iter().map(|(_, report)| report.agent.group_id().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ask(None, true, Some("near")), ["near/idle", "near/busy", "far/idle"]);
    assert_eq!(ask(None, false, Some("far")), ["far/idle", "near/idle", "near/busy", "near/broken"]);
    assert_eq!(ask(Some("near"), true, None), ["near/idle", "near/busy"]);
    let other = Query { rpc: "/x/Y".into(), node: None, only_ready: false, caller_node: None };
    assert!(table.resolve(&other).is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Register { group: u8, instance: u8, generation: u64 },
    Renew { group: u8, instance: u8 },
    Release { group: u8, instance: u8 },
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..2, 0u8..3, 0u64..4).prop_map(|(group, instance, generation)| Step::Register {
            group,
            instance,
            generation
        }),
        (0u8..2, 0u8..3).prop_map(|(group, instance)| Step::Renew { group, instance }),
        (0u8..2, 0u8..3).prop_map(|(group, instance)| Step::Release { group, instance }),
        (0i64..12).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a plain model: per group one owner at most, who holds the lease for 15 s after he was last heard; fencing
    /// and revision only grow; whoever is fenced off or silent is told `not_found`.
    #[test]
    fn one_owner_at_a_time(steps in proptest::collection::vec(step(), 1..80)) {
        let mut table = empty();
        let mut model: BTreeMap<u8, (u8, u64, Timestamp)> = BTreeMap::new();
        let mut ids: BTreeMap<(u8, u8), String> = BTreeMap::new();
        let (mut now, mut revision, mut fences) = (at(0), 0, BTreeMap::<u8, u64>::new());
        for (n, step) in steps.into_iter().enumerate() {
            expire(&mut table, now);
            model.retain(|_, (.., until)| *until > now);
            match step {
                Step::Wait(seconds) => now = now + Duration::from_secs(seconds as u64),
                Step::Register { group, instance, generation } => {
                    let asked = ask(&format!("a/g{group}"), &instance.to_string(), generation);
                    let refused = model
                        .get(&group)
                        .is_some_and(|(i, g, _)| (*i, *g) != (instance, generation) && generation <= *g);
                    let got = register(&mut table, &asked, &format!("l{n}"), now);
                    prop_assert_eq!(got.is_err(), refused);
                    if let Ok(id) = got {
                        ids.insert((group, instance), id);
                        model.insert(group, (instance, generation, now + TTL));
                    }
                }
                Step::Renew { group, instance } => {
                    let Some(id) = ids.get(&(group, instance)) else { continue };
                    let owner = model.get_mut(&group).filter(|(i, ..)| *i == instance);
                    match table.renew(id, vec![], now) {
                        Ok(renewal) => {
                            prop_assert_eq!(renewal, Renewal::Quiet);
                            owner.expect("only the owner renews").2 = now + TTL;
                        }
                        Err(fault) => {
                            prop_assert_eq!(fault.code, Code::NotFound);
                            prop_assert!(owner.is_none());
                        }
                    }
                }
                Step::Release { group, instance } => {
                    let Some(id) = ids.get(&(group, instance)) else { continue };
                    let owns = model.get(&group).is_some_and(|(i, ..)| *i == instance);
                    let release = table.release(id, "", now);
                    prop_assert_eq!(release.is_ok(), owns);
                    if let Ok(change) = release {
                        take(&mut table, change, now);
                        model.remove(&group);
                    }
                }
            }
            prop_assert!(table.revision() >= revision);
            revision = table.revision();
            for (group, line) in table.lines() {
                let number: u8 = group.group.as_str()[1..].parse().unwrap();
                let fence = fences.entry(number).or_default();
                prop_assert!(line.fencing >= *fence);
                *fence = line.fencing;
                if let Some((instance, generation, until)) = model.get(&number).filter(|(.., until)| *until > now) {
                    prop_assert_eq!(&line.body.instance, &instance.to_string());
                    prop_assert_eq!((line.generation, line.expires), (*generation, *until));
                    prop_assert!(line.ended.is_none());
                }
            }
        }
    }
}
