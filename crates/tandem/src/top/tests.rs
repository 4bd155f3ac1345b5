use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Modifier;
use serde_json::{Value, json};
use tandem_node::{
    GroupState, GroupStatus, GroupUse, LinkPath, MachineUse, NodeStatus, PathStatus, PeerGroup, PeerState, PeerStatus,
};
use tandem_types::{NodeName, Timestamp};

use super::calls::{self, Window};
use super::draw::{Screen, draw, plain};
use super::logic::{Key, Row, Sort, rows};
use super::picture::{Picture, Seen, picture};
use super::view::{Deed, Mode, Press, View};

fn at(ms: i64) -> Timestamp {
    Timestamp(1_790_000_000_000_000 + ms * 1_000)
}

fn group(name: &str, state: GroupState, reason: &str) -> GroupStatus {
    serde_json::from_value(json!({
        "group": format!("left/{name}"), "state": state, "reason": reason, "notice": "", "since": at(-61_000),
        "pid": 7, "rss_bytes": 15_600_000, "restarts": 0, "ready_ms": 40, "port": 8200, "scrape_port": 9100,
        "limits": { "ram_mib": 256, "cpu": null, "cpu_weight": 100, "enforcement": "" }, "last_exit": null,
    }))
    .unwrap()
}

fn usage(cpu_ratio: Option<f64>, groups: &[(&str, u64, f64)]) -> MachineUse {
    let of = |(name, resident_bytes, cpu): &(&str, u64, f64)| GroupUse {
        group: name.parse().unwrap(),
        resident_bytes: *resident_bytes,
        cpu_ratio: Some(*cpu),
    };
    MachineUse {
        sampled: at(-500),
        cpus: 2,
        cpu_ratio,
        memory_total_bytes: Some(8_321_499_136),
        memory_used_bytes: Some(3_221_225_472),
        groups: groups.iter().map(of).collect(),
    }
}

fn peer(state: PeerState, reason: &str, heard_ms_ago: u64) -> PeerStatus {
    let group = |name: &str, state, reason: &str, restarts| PeerGroup {
        group: format!("right/{name}").parse().unwrap(),
        state,
        reason: reason.into(),
        since: at(-10_000),
        pid: Some(9),
        restarts,
        ready_ms: None,
        port: 8200,
    };
    let heard = matches!(state, PeerState::Alive).then_some(640);
    PeerStatus {
        node: "right".parse().unwrap(),
        state,
        reason: reason.into(),
        trouble: None,
        heard_ms_ago: Some(heard_ms_ago),
        program_version: None,
        paths: vec![PathStatus {
            path: LinkPath::Overlay,
            heard_ms_ago: Some(heard_ms_ago),
            suspicion: Some(0.2),
            round_trip_us: heard,
        }],
        groups: vec![
            group("infra_core", GroupState::Ready, "", 0),
            group("memory_stack", GroupState::BackingOff, "killed by SIGKILL", 2),
        ],
        usage: Some(usage(Some(0.07), &[("infra_core", 12_000_000, 0.004)])),
    }
}

fn status(peer: PeerStatus) -> NodeStatus {
    NodeStatus {
        node: "left".parse().unwrap(),
        fleet: "/home/ana/pair.toml".into(),
        plan_hash: "abc".into(),
        pid: 3,
        rss_bytes: None,
        since: at(-120_000),
        settled: true,
        ending: false,
        forecast: None,
        healthy_ms: None,
        groups: vec![
            group("infra_core", GroupState::Ready, ""),
            GroupStatus { restarts: 1, ..group("coordination", GroupState::Ready, "") },
            GroupStatus {
                pid: None,
                rss_bytes: None,
                restarts: 5,
                ..group("memory_stack", GroupState::CrashLoop, "ended by itself 5 times")
            },
            GroupStatus { pid: None, rss_bytes: None, ..group("vision_gpu", GroupState::NotBuilt, "there is no code") },
        ],
        usage: Some(usage(Some(0.341), &[("infra_core", 15_600_000, 0.0123), ("coordination", 15_600_000, 1.04)])),
        peers: vec![peer],
    }
}

fn health(agents: &[(&str, &str, &str)], engines: &Value) -> Value {
    let agents: Vec<Value> = agents
        .iter()
        .map(|(name, state, cause)| json!({ "agent": format!("left/x/{name}"), "state": state, "cause": cause, "age_ms": 900, "built": true, "restarts": 0 }))
        .collect();
    json!({ "state": "ready", "cause": "", "agents": agents, "engines": engines })
}

fn calls(served: u32) -> String {
    let of = "agent=\"left/infra_core/ServiceRegistry\",rpc=\"registry.v1.Registry/Renew\"";
    format!(
        "tandem_rpc_requests_total{{{of},code=\"ok\"}} {served}\n\
         tandem_rpc_duration_seconds_bucket{{{of},le=\"0.0025\"}} {served}\n\
         tandem_rpc_duration_seconds_bucket{{{of},le=\"+Inf\"}} {served}\n"
    )
}

/// A fleet of two, as its left node knows it.
fn fleet(peer: PeerStatus) -> Picture {
    let status = status(peer);
    let mut window = Window::default();
    for (second, served) in [(0, 100), (10, 124)] {
        window.push(Duration::from_secs(second), 7, calls::read(&calls(served), &status.groups[0].group));
    }
    let infra =
        health(&[("ServiceRegistry", "ready", ""), ("SystemDigitalTwin", "degraded", "disk is slow")], &json!([]));
    let engine = json!([{ "model": "tiny", "state": "ready", "measured_bytes": 1_500_000_000_u64 }]);
    let mut coordination = health(&[("ModelManagerSuite", "ready", "")], &engine);
    coordination["state"] = "degraded".into();
    coordination["cause"] = "answers of one model only, since the other is too large for this machine".into();
    let seen = [
        Seen { health: Some(infra), probe_us: Some(1_240), calls: Some(&window) },
        Seen { health: Some(coordination), probe_us: Some(830), calls: None },
        Seen::default(),
        Seen::default(),
    ];
    picture(&status, &seen, None, at(0))
}

fn alive() -> Picture {
    fleet(peer(PeerState::Alive, "", 400))
}

fn opened(groups: &[&str]) -> View {
    View { open: groups.iter().map(|group| group.parse().unwrap()).collect(), ..View::default() }
}

/// What a terminal of this size shows.
fn shown(picture: &Picture, view: &View, trouble: Option<&str>, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let log = vec!["15:04:05.678 INFO  ready".to_owned(), "15:04:06.000 WARN  late".to_owned()];
    let screen = Screen { picture: Some(picture), view, trouble, log: &log, coloured: true };
    terminal.draw(|frame| draw(frame, &screen)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect::<Vec<_>>().join("\n")
}

fn names(picture: &Picture, view: &View) -> Vec<String> {
    rows(picture, view).into_iter().map(|row| row.name).collect()
}

#[test]
fn a_wide_terminal_shows_every_figure_that_was_measured() {
    let view = opened(&["left/infra_core", "left/coordination"]);
    insta::assert_snapshot!(plain(&alive(), &view, 100), @r"
    pair.toml  3 of 5 groups serve  by start order  14:13:20 UTC
                           state           for       memory    cpu  rst   probe  req/s      p95
    left                   up            2 min  3.0/7.8 GiB   34 %    6       -      -        -
    ▾ infra_core           ready         1 min     14.9 MiB  1.2 %    0  1.2 ms    2.4  ≤2.5 ms
        ServiceRegistry    ready        900 ms            -      -    0       -    2.4  ≤2.5 ms
        SystemDigitalTwin  degraded     900 ms            -      -    0       -    0.0        -
          disk is slow
    ▾ coordination         degraded      1 min     14.9 MiB  104 %    1  830 µs      -        -
        answers of one model only, since the other is too large for this machine
        ModelManagerSuite  ready        900 ms            -      -    0       -      -        -
        engine tiny        ready             -      1.4 GiB      -    0       -      -        -
      memory_stack         crash loop    1 min            -      -    5       -      -        -
        ended by itself 5 times
      vision_gpu           not built         -            -      -    -       -      -        -
    right                  alive             -  3.0/7.8 GiB  7.0 %    2  640 µs      -        -
      heard 400 ms ago
      infra_core           ready        10.0 s     11.4 MiB  0.4 %    0       -      -        -
      memory_stack         backing off  10.0 s            -      -    2       -      -        -
        killed by SIGKILL
    ");
}

#[test]
fn a_terminal_of_80_by_24_shows_all_rows_and_the_keys() {
    insta::assert_snapshot!(shown(&alive(), &opened(&["left/infra_core"]), None, (80, 24)), @r"
    pair.toml  3 of 5 groups serve  by start order  14:13:20 UTC
                          state          for      memory   cpu rst  probe req/s
    left                  up           2 min 3.0/7.8 GiB  34 %   6      -     -
    ▾ infra_core          ready        1 min    14.9 MiB 1.2 %   0 1.2 ms   2.4
        ServiceRegistry   ready       900 ms           -     -   0      -   2.4
        SystemDigitalTwin degraded    900 ms           -     -   0      -   0.0
          disk is slow
    ▸ coordination        degraded     1 min    14.9 MiB 104 %   1 830 µs     -
        answers of one model only, since the other is too large for this machine
      memory_stack        crash loop   1 min           -     -   5      -     -
        ended by itself 5 times
      vision_gpu          not built        -           -     -   -      -     -
    right                 alive            - 3.0/7.8 GiB 7.0 %   2 640 µs     -
      heard 400 ms ago
      infra_core          ready       10.0 s    11.4 MiB 0.4 %   0      -     -
      memory_stack        backing off 10.0 s           -     -   2      -     -
        killed by SIGKILL






    q ends  ? help  Enter opens  s sorts  / filters  r restarts  l shows the log
    ");
}

#[test]
fn a_narrow_terminal_keeps_names_and_states() {
    insta::assert_snapshot!(shown(&alive(), &View::default(), None, (40, 12)), @r"
    pair.toml  3 of 5 groups serve  by start
                   state          for
    left           up           2 min
    ▸ infra_core   ready        1 min
    ▸ coordination degraded     1 min
        answers of one model only, since the
        other is too large for this machine
      memory_stack crash loop   1 min
        ended by itself 5 times
      vision_gpu   not built        -
    right          alive            -
    q ends  ? help  Enter opens  s sorts  /
    ");
}

#[test]
fn what_is_known_of_a_silent_node_and_of_one_that_ended_says_how_old_it_is() {
    let silent = fleet(peer(PeerState::Unknown, "last seen 14 s ago; no answer within 1 s", 14_200));
    let trouble = "no node runs here; `tandem up` starts it; looking again; this is 3.0 s old";
    insta::assert_snapshot!(shown(&silent, &View::default(), Some(trouble), (80, 16)), @r"
    pair.toml  2 of 5 groups serve  by start order  14:13:20 UTC
    no node runs here; `tandem up` starts it; looking again; this is 3.0 s old
                   state          for      memory   cpu rst  probe req/s     p95
    left           up           2 min 3.0/7.8 GiB  34 %   6      -     -       -
    ▸ infra_core   ready        1 min    14.9 MiB 1.2 %   0 1.2 ms   2.4 ≤2.5 ms
    ▸ coordination degraded     1 min    14.9 MiB 104 %   1 830 µs     -       -
        answers of one model only, since the other is too large for this machine
      memory_stack crash loop   1 min           -     -   5      -     -       -
        ended by itself 5 times
      vision_gpu   not built        -           -     -   -      -     -       -
    right          unknown          - 3.0/7.8 GiB 7.0 %   2      -     -       -
      last seen 14 s ago; no answer within 1 s
      infra_core   ready       10.0 s    11.4 MiB 0.4 %   0      -     -       -
      memory_stack backing off 10.0 s           -     -   2      -     -       -
        killed by SIGKILL
    q ends  ? help  Enter opens  s sorts  / filters  r restarts  l shows the log
    ");
}

#[test]
fn a_stale_row_is_dimmed_and_the_selected_one_reversed() {
    let picture = fleet(peer(PeerState::Unknown, "last seen 14 s ago", 14_200));
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    for coloured in [true, false] {
        let view = View::default();
        let screen = Screen { picture: Some(&picture), view: &view, trouble: None, log: &[], coloured };
        terminal.draw(|frame| draw(frame, &screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let style_at = |name: &str| {
            let row = |y: u16| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
            let y = (0..24).find(|y| row(*y).contains(name)).unwrap();
            (0..80).map(|x| buffer[(x, y)].style()).find(|style| !style.add_modifier.is_empty()).unwrap()
        };
        assert!(style_at("coordination").add_modifier.contains(Modifier::BOLD));
        assert!(style_at("infra_core").add_modifier.contains(Modifier::REVERSED), "the first group is selected");
        assert!(style_at("right").add_modifier.contains(Modifier::DIM));
        let colours = buffer.content.iter().any(|cell| cell.fg != ratatui::style::Color::Reset);
        assert_eq!(colours, coloured, "colours are used where they are wanted alone");
    }
}

#[test]
fn any_size_of_terminal_can_be_drawn_on() {
    let picture = alive();
    for size in [(1, 1), (2, 3), (10, 2), (79, 5), (300, 60)] {
        for mode in [Mode::Table, Mode::Help, Mode::Filter(String::new()), Mode::Log("infra_core".parse().unwrap())] {
            let view = View { mode, ..View::default() };
            let shown = shown(&picture, &view, Some("trouble"), size);
            assert_eq!(shown.split('\n').count(), usize::from(size.1), "{size:?}");
        }
    }
}

#[test]
fn groups_are_sorted_within_their_node() {
    let picture = alive();
    for (sort, expected) in [
        (Sort::Start, ["infra_core", "coordination", "memory_stack", "vision_gpu"]),
        (Sort::Name, ["coordination", "infra_core", "memory_stack", "vision_gpu"]),
        (Sort::State, ["memory_stack", "coordination", "infra_core", "vision_gpu"]),
        (Sort::Cpu, ["coordination", "infra_core", "memory_stack", "vision_gpu"]),
        (Sort::Restarts, ["memory_stack", "coordination", "infra_core", "vision_gpu"]),
        (Sort::Probe, ["infra_core", "coordination", "memory_stack", "vision_gpu"]),
        (Sort::Calls, ["infra_core", "coordination", "memory_stack", "vision_gpu"]),
    ] {
        let sorted = names(&picture, &View { sort, ..View::default() });
        assert_eq!(sorted[1..5], expected, "{sort:?}");
        assert_eq!((sorted[0].as_str(), sorted[5].as_str()), ("left", "right"));
    }
}

#[test]
fn a_filter_asks_names_states_and_parts_and_keeps_the_nodes() {
    for (filter, expected) in [
        ("memory", vec!["left", "memory_stack", "right", "memory_stack"]),
        ("CRASH", vec!["left", "memory_stack", "right"]),
        ("twin", vec!["left", "infra_core", "right"]),
        ("nothing like it", vec!["left", "right"]),
    ] {
        assert_eq!(names(&alive(), &View { filter: filter.into(), ..View::default() }), expected, "{filter}");
    }
}

/// Presses keys one after the other; what the last one asks for.
fn pressed(view: &mut View, keys: &[Press]) -> Deed {
    let picture = alive();
    let here: NodeName = "left".parse().unwrap();
    let mut deed = Deed::Nothing;
    for key in keys {
        let rows: Vec<Row> = rows(&picture, view);
        deed = view.press(*key, &rows, Some(&here));
    }
    deed
}

#[test]
fn keys_walk_open_sort_and_end() {
    use Press::{Char, Down, End, Enter, Escape, Home, PageDown, PageUp, Up};
    let group = |name: &str| Some(Key::Group(name.parse().unwrap()));
    for (keys, selected) in [
        (&[Down][..], group("left/coordination")),
        (&[Char('j'), Char('j'), Char('k')], group("left/coordination")),
        (&[Up, Up, Up], Some(Key::Node("left".parse().unwrap()))),
        (&[PageDown(100)], group("right/memory_stack")),
        (&[End, PageUp(2)], Some(Key::Node("right".parse().unwrap()))),
        (&[End, Home, Down], group("left/infra_core")),
        (&[Enter, Down], Some(Key::Part("left/infra_core".parse().unwrap(), "ServiceRegistry".into()))),
        (&[Enter, Down, Enter], group("left/infra_core")),
    ] {
        let mut view = View::default();
        assert_eq!((pressed(&mut view, keys), &view.selected), (Deed::Nothing, &selected), "{keys:?}");
    }
    let mut view = View::default();
    pressed(&mut view, &[Char('s'), Char('s')]);
    assert_eq!(view.sort, Sort::State);
    pressed(&mut view, &[Char('s'); 6]);
    assert_eq!(view.sort, Sort::Start);
    assert_eq!(pressed(&mut view, &[Char('?'), Escape]), Deed::Nothing);
    assert_eq!((view.mode.clone(), pressed(&mut view, &[Char('q')])), (Mode::Table, Deed::Quit));
}

#[test]
fn a_filter_is_typed_kept_and_taken_back() {
    use Press::{Backspace, Char, Enter, Escape};
    for (keys, filter) in [
        (&[Char('/'), Char('q'), Char('r')][..], "qr"),
        (&[Char('/'), Char('q'), Backspace, Enter], ""),
        (&[Char('/'), Char('q'), Enter], "q"),
        (&[Char('/'), Char('q'), Enter, Char('/'), Char('x'), Escape], "q"),
        (&[Char('/'), Char('q'), Enter, Escape], ""),
    ] {
        let mut view = View::default();
        assert_eq!(pressed(&mut view, keys), Deed::Nothing, "{keys:?}");
        assert_eq!(view.filter, filter, "{keys:?}");
    }
}

#[test]
fn a_group_of_this_node_is_restarted_after_a_yes_and_only_then() {
    use Press::{Char, Down, End, Escape, Home};
    let mut view = View::default();
    assert_eq!(pressed(&mut view, &[Down, Char('r')]), Deed::Nothing);
    assert_eq!(view.mode, Mode::Restart("left/coordination".parse().unwrap()));
    assert_eq!(pressed(&mut view, &[Char('y')]), Deed::Restart("coordination".parse().unwrap()));
    for (keys, said) in [
        (&[Char('r'), Char('n')][..], "left/infra_core was not restarted"),
        (&[Char('r'), Escape], "left/infra_core was not restarted"),
        (&[Home, Char('r')], "select a group first"),
        (&[End, Char('r')], "right is another machine: `tandem restart memory_stack` does it there"),
        (&[End, Char('l')], "right is another machine: `tandem logs memory_stack` does it there"),
    ] {
        let mut view = View::default();
        assert_eq!(pressed(&mut view, keys), Deed::Nothing, "{keys:?}");
        assert_eq!((view.said.as_deref(), &view.mode), (Some(said), &Mode::Table), "{keys:?}");
    }
    let mut view = View::default();
    pressed(&mut view, &[Char('l')]);
    assert_eq!(view.mode, Mode::Log("infra_core".parse().unwrap()));
    assert_eq!(shown(&alive(), &view, None, (40, 2)).lines().next(), Some("15:04:06.000 WARN  late"));
    assert_eq!((pressed(&mut view, &[Char('q')]), view.mode), (Deed::Nothing, Mode::Table));
}

#[test]
fn as_json_a_figure_that_nobody_measured_is_null() {
    let value = json!(alive());
    let (here, there) = (&value["nodes"][0], &value["nodes"][1]);
    assert_eq!((&here["standing"], &there["standing"]), (&json!("up"), &json!("alive")));
    assert_eq!(here["groups"][0]["calls_per_s"], json!(2.4));
    assert_eq!(here["groups"][0]["p95_within_s"], json!(0.0025));
    assert_eq!(here["groups"][1]["calls_per_s"], Value::Null);
    assert_eq!((&there["round_trip_us"], &there["groups"][0]["probe_us"]), (&json!(640), &Value::Null));
    assert_eq!(there["groups"][1]["restarts"], json!(2));
}
