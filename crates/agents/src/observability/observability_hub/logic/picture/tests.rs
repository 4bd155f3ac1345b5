use super::*;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn planned(id: &str, built: bool) -> Group {
    let agents = vec![("A".parse().unwrap(), true, built), ("B".parse().unwrap(), false, false)];
    Group::planned(id.parse().unwrap(), String::new(), agents, at(0))
}

fn picture(me: &str) -> Picture {
    let groups = vec![planned("one/x", true), planned("one/y", true), planned("two/x", true), planned("two/z", false)];
    Picture::new(me.parse().unwrap(), groups, Duration::from_secs(15))
}

fn id(text: &str) -> GroupId {
    text.parse().unwrap()
}

fn turn(picture: &mut Picture, group: &str, state: State, now: i64) -> Option<News> {
    let said = picture.group(&id(group)).unwrap().all(state, "", "", at(now));
    picture.see(&id(group), said, true, at(now))
}

fn turns(news: &[News]) -> Vec<String> {
    news.iter().flat_map(|n| &n.turns).map(|t| format!("{} {}>{}", t.subject, t.from, t.to.state)).collect()
}

fn pull(from: &Picture, into: &mut Picture, node: &str, now: i64) -> Vec<News> {
    let node: NodeName = node.parse().unwrap();
    let groups = from.newer(&into.versions(&node)).into_iter().cloned().collect();
    into.merge(&node, groups, at(now))
}

#[test]
fn what_is_not_built_is_shown_and_never_starting() {
    let picture = picture("one");
    let x = picture.view(&id("one/x")).unwrap();
    assert_eq!((x.health.state, x.agents[0].health.state), (State::Starting, State::Starting));
    assert_eq!((x.agents[1].built, x.agents[1].health.state), (false, State::Unavailable));
    assert_eq!(picture.view(&id("two/z")).unwrap().health.cause, NONE_BUILT);
    assert_eq!(picture.view(&id("two/x")).unwrap().health.state, State::Unknown, "another node is not guessed at");
}

#[test]
fn a_change_is_told_once_and_an_age_is_no_change() {
    let mut picture = picture("one");
    let before = picture.group(&id("one/x")).unwrap().version;
    let news = turn(&mut picture, "one/x", State::Ready, 1).unwrap();
    assert_eq!(turns(std::slice::from_ref(&news)), ["one/x starting>ready", "one/x/A starting>ready"]);
    assert!(news.group.version > before && news.turns[1].with_group);
    assert_eq!(turn(&mut picture, "one/x", State::Ready, 9), None);
    let group = picture.group(&id("one/x")).unwrap();
    assert_eq!((group.version, group.seen), (news.group.version, at(9)));
}

#[test]
fn hubs_agree_after_a_pull_and_stale_is_not_failed() {
    let (mut one, mut two) = (picture("one"), picture("two"));
    turn(&mut two, "two/x", State::Ready, 5);
    assert_eq!(turns(&pull(&two, &mut one, "two", 6)), ["two/x unknown>ready", "two/x/A unknown>ready"]);
    assert_eq!(pull(&two, &mut one, "two", 11), [], "nothing new is nothing sent");
    turn(&mut two, "two/x", State::Failed, 12);
    assert_eq!(one.silence(at(26)), []);
    assert_eq!(turns(&one.silence(at(27))), ["two/x ready>unknown", "two/x/A ready>unknown"]);
    assert_eq!(one.silence(at(28)), [], "told once");
    assert!(one.view(&id("two/x")).unwrap().health.cause.contains("was ready"));
    assert_eq!(turns(&pull(&two, &mut one, "two", 30)), ["two/x unknown>failed", "two/x/A unknown>failed"]);
    let node: NodeName = "two".parse().unwrap();
    assert_eq!(one.digests(&node), two.digests(&node));
}

#[test]
fn differing_digests_bring_everything_anew() {
    let (mut one, two) = (picture("one"), picture("two"));
    let node: NodeName = "two".parse().unwrap();
    pull(&two, &mut one, "two", 1);
    one.groups.get_mut(&id("two/x")).unwrap().health.cause = "wrong".into();
    assert_eq!(pull(&two, &mut one, "two", 2), [], "versions alone do not show it");
    assert_eq!(one.compare(&node, &two.digests(&node)), 1);
    assert_eq!(pull(&two, &mut one, "two", 3).len(), 1);
    assert_eq!(one.compare(&node, &two.digests(&node)), 0);
}

#[test]
fn times_of_a_fast_clock_are_corrected_in_the_view_only() {
    let (mut one, mut two) = (picture("one"), picture("two"));
    turn(&mut two, "two/x", State::Ready, 100);
    pull(&two, &mut one, "two", 5);
    let node: NodeName = "two".parse().unwrap();
    for (ahead, since) in [(1_900_000, at(100)), (95_000_000, at(5))] {
        one.clock_ahead(&node, ahead);
        assert_eq!(one.view(&id("two/x")).unwrap().health.since, since);
    }
    assert_eq!(one.digests(&node), two.digests(&node));
}

#[test]
fn a_hub_is_believed_about_its_own_node_only() {
    let mut one = picture("one");
    let lie = Group { health: Health::new(State::Failed, "", at(1)), ..planned("one/x", true) };
    one.merge(&"two".parse().unwrap(), vec![lie], at(1));
    assert_eq!(one.view(&id("one/x")).unwrap().health.state, State::Starting);
}

#[test]
fn a_node_is_as_its_groups_are() {
    use State::{Degraded, Failed, Ready, Starting, Unavailable, Unknown};
    for (states, state, cause) in [
        (vec![Ready, Ready], Ready, ""),
        (vec![Ready, Failed], Degraded, "g1 is failed"),
        (vec![Failed, Failed], Failed, "all of its groups are"),
        (vec![Unknown, Unknown], Unknown, "all of its groups are"),
        (vec![Ready, Starting], Starting, "g1 is starting"),
        (vec![Degraded, Starting], Degraded, "g0 is degraded; g1 is starting"),
        (vec![], Unavailable, "none of its groups is built"),
    ] {
        let group = |(n, state): (usize, &State)| Group {
            health: Health::new(*state, "", at(0)),
            ..planned(&format!("one/g{n}"), true)
        };
        let mut groups: Vec<Group> = states.iter().enumerate().map(group).collect();
        groups.push(planned("one/unbuilt", false));
        let health = roll_up(&groups, at(0));
        assert_eq!((health.state, health.cause.as_str()), (state, cause), "{states:?}");
    }
}

proptest! {
    /// However changes, pulls and silences follow each other, one pull at the end makes both hubs agree.
    #[test]
    fn pictures_converge(steps in proptest::collection::vec((0u8..4, 0usize..8, 0i64..20), 0..40)) {
        let (mut one, mut two) = (picture("one"), picture("two"));
        let mut now = 1;
        for (what, state, pause) in steps {
            now += pause;
            match what {
                0 => drop(turn(&mut two, "two/x", State::ALL[state], now)),
                1 => drop(turn(&mut one, "one/y", State::ALL[state], now)),
                2 => drop(pull(&two, &mut one, "two", now)),
                _ => drop(one.silence(at(now))),
            }
        }
        pull(&two, &mut one, "two", now);
        pull(&one, &mut two, "one", now);
        for node in ["one", "two"] {
            let node: NodeName = node.parse().unwrap();
            prop_assert_eq!(one.digests(&node), two.digests(&node));
        }
    }
}
