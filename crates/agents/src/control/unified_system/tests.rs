use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tandem_agent::{FleetAgent, FleetGroup, FleetNode, FleetView};
use tandem_contract::pb::tandem::common::v1 as common;
use tandem_contract::pb::tandem::model::v1::{ListRolesRequest, ListRolesResponse, RoleInfo};
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::{Unary, Wire, models, system};
use tandem_contract::{Call, Service};
use tandem_testkit::{Rig, Running};
use tandem_types::{Code, Fault, Health, State, Timestamp, reason};
use tokio::sync::Notify;

use super::DEF;
use super::logic::magic_packet;
use toy::Toy;

mod toy;
mod with_hosts;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_790_000_000 + seconds)
}

fn group(id: &str, agents: &[(&str, bool, bool)]) -> FleetGroup {
    let agent = |(name, required, built): &(&str, bool, bool)| FleetAgent {
        name: name.parse().unwrap(),
        required: *required,
        built: *built,
        needs: vec![],
        uses: vec![],
        rpcs: vec![],
        topics: vec![],
        settings: json!(null),
    };
    FleetGroup {
        id: id.parse().unwrap(),
        endpoint: "http://127.0.0.1:1".into(),
        scrape_endpoint: String::new(),
        needs: vec![],
        ram_bytes: 1 << 28,
        cpus: 1.0,
        callers: BTreeMap::new(),
        agents: agents.iter().map(agent).collect(),
    }
}

/// Two groups with code beside the own one, which has no host in a rig and is left out by being shown as not built.
fn fleet() -> FleetView {
    let node = |name: &str| FleetNode { name: name.parse().unwrap(), address: "127.0.0.1".into() };
    let mut chain = group("solo/chain", &[("First", true, true), ("Second", false, true), ("Absent", false, false)]);
    chain.agents[1].needs = vec!["First".parse().unwrap()];
    FleetView {
        name: "test".into(),
        plan_hash: "plan".into(),
        text: tandem_fleet::SOLO.into(),
        file_name: "solo.toml".into(),
        nodes: vec![node("solo"), node("pc2")],
        groups: vec![
            group("solo/under_test", &[(DEF.name, false, false)]),
            chain,
            group("pc2/far", &[("Far", false, true)]),
        ],
        ..FleetView::default()
    }
}

async fn rig() -> Running {
    Rig::new(&DEF).fleet(fleet()).start().await
}

fn key(n: u8) -> Vec<u8> {
    vec![n; 16]
}

async fn ask<Req: Wire, Res: Wire>(rig: &Running, rpc: Unary<Req, Res>, request: Req) -> Result<Res, Fault> {
    rig.client().unary(rpc, request, &Call::from_door("cli")).await
}

async fn restart(rig: &Running, n: u8, agent: &str) -> Result<pb::Action, Fault> {
    let request = pb::RestartAgentRequest {
        idempotency_key: key(n),
        agent: agent.into(),
        reason: "it is slow".into(),
        drain_ms: 5_000,
        ..Default::default()
    };
    ask(rig, system::RESTART_AGENT, request).await.map(|answer| answer.action.as_option().unwrap().clone())
}

async fn listed(rig: &Running) -> Vec<pb::Action> {
    ask(rig, system::LIST_ACTIONS, Default::default()).await.unwrap().actions
}

#[tokio::test]
async fn an_action_is_done_once_kept_and_has_the_group_to_itself() {
    let rig = rig().await;
    let hold = Arc::new(Notify::new());
    let toy = Toy { hold: Some(hold.clone()), ..Toy::new("solo/chain", &["First"]) };
    toy.comes(&rig);
    let (first, same, other) =
        tokio::join!(restart(&rig, 1, "solo/chain/First"), restart(&rig, 1, "solo/chain/First"), async {
            while toy.told().is_empty() {
                tokio::task::yield_now().await;
            }
            let other = restart(&rig, 2, "solo/chain/Second").await;
            hold.notify_one();
            other
        });
    let done = first.unwrap();
    assert_eq!((done.outcome.as_str(), done.actor.as_str(), done.reason.as_str()), ("done", "cli", "it is slow"));
    assert_eq!(same.unwrap(), done, "the same key joins the same action");
    let busy = other.unwrap_err();
    assert_eq!(busy.code, Code::Conflict, "{busy}");
    assert!(busy.message.contains("restart"), "the holder is named: {busy}");
    assert_eq!(restart(&rig, 1, "solo/chain/First").await.unwrap(), done, "and finds it later");
    assert_eq!(toy.told(), ["restart First"]);
    assert_eq!(listed(&rig).await, [done]);
}

#[tokio::test]
async fn a_group_that_is_away_leaves_the_action_pending_until_it_is_back() {
    let rig = rig().await;
    let pending = restart(&rig, 1, "solo/chain/First").await.unwrap();
    assert_eq!(pending.outcome, "pending");
    assert!(pending.detail.contains("solo/chain is away"), "{}", pending.detail);
    rig.reconcile("pending").await.unwrap();
    assert_eq!(listed(&rig).await[0].outcome, "pending");
    let toy = Toy::new("solo/chain", &["First"]);
    toy.comes(&rig);
    rig.reconcile("pending").await.unwrap();
    assert_eq!((listed(&rig).await[0].outcome.as_str(), toy.told().len()), ("done", 1));
    assert_eq!(*toy.drain_ms.lock().unwrap(), 5_000, "it is done as it was asked for");

    rig.clock.advance(Duration::from_secs(1));
    restart(&rig, 2, "pc2/far/Far").await.unwrap();
    rig.clock.advance(Duration::from_secs(3_600));
    rig.reconcile("pending").await.unwrap();
    let given_up = &listed(&rig).await[0];
    assert_eq!((given_up.outcome.as_str(), given_up.detail.starts_with("given up")), ("failed", true));
}

#[tokio::test]
async fn an_action_cut_off_by_its_own_end_is_not_left_running() {
    let mut rig = rig().await;
    let toy = Toy { hold: Some(Arc::default()), ..Toy::new("solo/chain", &["First"]) };
    toy.comes(&rig);
    let call = Call::from_door("cli").within(Duration::from_millis(400), std::time::Instant::now());
    let request =
        pb::RestartAgentRequest { idempotency_key: key(1), agent: "solo/chain/First".into(), ..Default::default() };
    let running = rig.client().unary(system::RESTART_AGENT, request, &call).await.unwrap();
    assert_eq!(running.action.outcome, "running", "a caller whose time is up learns how it stands");
    rig.restart().await;
    let left = &listed(&rig).await[0];
    assert_eq!((left.outcome.as_str(), left.detail.contains("ended while this ran")), ("failed", true));
}

#[tokio::test]
async fn a_recycle_goes_against_the_needs_and_ends_at_the_first_failure() {
    let rig = rig().await;
    let toy = Toy::new("solo/chain", &["First", "Second"]);
    toy.comes(&rig);
    let recycle = |n| {
        let request =
            pb::RecycleGroupRequest { idempotency_key: key(n), group: "solo/chain".into(), ..Default::default() };
        async { ask(&rig, system::RECYCLE_GROUP, request).await.unwrap().action.as_option().unwrap().clone() }
    };
    assert_eq!(recycle(1).await.outcome, "done");
    assert_eq!(toy.told(), ["restart Second", "restart First"]);
    *toy.becomes.lock().unwrap() = State::Failed;
    let failed = recycle(2).await;
    assert_eq!((failed.outcome.as_str(), toy.told().len()), ("failed", 3));
}

#[tokio::test]
async fn orders_that_cannot_be_are_refused_before_anything_is_done() {
    let rig = rig().await;
    let start = |key: Vec<u8>, agent: &str| {
        let request = pb::StartAgentRequest { idempotency_key: key, agent: agent.into(), ..Default::default() };
        async { ask(&rig, system::START_AGENT, request).await.map(drop) }
    };
    let stop = |agent: &str| {
        let request = pb::StopAgentRequest { idempotency_key: key(9), agent: agent.into(), ..Default::default() };
        async { ask(&rig, system::STOP_AGENT, request).await.map(drop) }
    };
    for (refusal, code, word) in [
        (start(vec![1], "no agent").await, Code::InvalidArgument, "idempotency_key"),
        (start(key(1), "solo/nowhere/X").await, Code::NotFound, "solo/nowhere"),
        (start(key(1), "solo/chain/Stranger").await, Code::NotFound, "Stranger"),
        (start(key(1), "solo/chain/Absent").await, Code::FailedPrecondition, "no code"),
        (stop("solo/chain/First").await, Code::FailedPrecondition, "force"),
    ] {
        let fault = refusal.unwrap_err();
        assert!(fault.code == code && fault.message.contains(word), "{fault}");
    }
    assert_eq!(listed(&rig).await, []);
}

async fn request_of(rig: &Running, id: &str) -> pb::DataRequest {
    let request = pb::GetDataRequestRequest { request_id: id.into(), ..Default::default() };
    ask(rig, system::GET_DATA_REQUEST, request).await.unwrap().request.as_option().unwrap().clone()
}

#[tokio::test]
async fn forgetting_closes_only_when_every_group_has_answered() {
    let rig = rig().await;
    let (near, far) = (Toy::new("solo/chain", &["First"]), Toy::new("pc2/far", &["Far"]));
    near.comes(&rig);
    let forget = |confirm: &str| {
        let (user_id, confirm_user_id) = ("juan".into(), confirm.into());
        let request =
            pb::RequestForgetRequest { idempotency_key: key(1), user_id, confirm_user_id, ..Default::default() };
        async { ask(&rig, system::REQUEST_FORGET, request).await }
    };
    let fault = forget("").await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, reason::CONFIRMATION_NEEDED));
    let open = forget("juan").await.unwrap().request.as_option().unwrap().clone();
    let state = |request: &pb::DataRequest, group: &str| {
        request.groups.iter().find(|g| g.group == group).map(|g| g.state.clone()).unwrap()
    };
    assert_eq!((open.state.as_str(), state(&open, "solo/chain").as_str()), ("open", "done"));
    assert_ne!(state(&open, "pc2/far"), "done");
    assert!(rig.events().is_empty());
    // It answers, but an agent of it does not run, so its store was not asked.
    *far.becomes.lock().unwrap() = State::Failed;
    far.comes(&rig);
    rig.reconcile("data").await.unwrap();
    assert!(state(&request_of(&rig, &open.request_id).await, "pc2/far").contains("is failed"));
    *far.becomes.lock().unwrap() = State::Ready;
    rig.reconcile("data").await.unwrap();
    let closed = request_of(&rig, &open.request_id).await;
    assert_eq!((closed.state.as_str(), closed.groups.iter().all(|g| g.stores[0].rows == 3)), ("closed", true));
    assert_eq!((near.told(), far.told()), (vec!["forget juan".to_owned()], vec!["forget juan".to_owned()]));
    let told: Vec<String> = rig.events().into_iter().map(|event| event.topic).collect();
    assert_eq!(told, ["data.forgotten"]);
    rig.reconcile("data").await.unwrap();
    assert_eq!(rig.events().len(), 1);
}

#[tokio::test]
async fn an_export_is_one_private_file_with_every_row() {
    let rig = rig().await;
    let (near, far) = (Toy::new("solo/chain", &["First"]), Toy::new("pc2/far", &["Far"]));
    near.comes(&rig);
    let request = pb::RequestExportRequest { idempotency_key: key(1), user_id: "juan".into(), ..Default::default() };
    let open = ask(&rig, system::REQUEST_EXPORT, request.clone()).await.unwrap().request.as_option().unwrap().clone();
    assert_eq!(open.state, "open");
    assert!(!std::path::Path::new(&open.path).exists(), "half an export is none");
    far.comes(&rig);
    rig.reconcile("data").await.unwrap();
    let closed = ask(&rig, system::REQUEST_EXPORT, request).await.unwrap().request.as_option().unwrap().clone();
    assert_eq!((closed.state.as_str(), &closed.request_id), ("closed", &open.request_id));
    let text = std::fs::read_to_string(&closed.path).unwrap();
    let mut rows: Vec<(String, u64)> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["group"].as_str().unwrap().to_owned(), line["row"]["n"].as_u64().unwrap()))
        .collect();
    rows.sort();
    let row = |group: &str, n| (group.to_owned(), n);
    assert_eq!(rows, [row("pc2/far", 0), row("pc2/far", 1), row("solo/chain", 0), row("solo/chain", 1)]);
    let file = std::path::Path::new(&closed.path);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no parts are left");
}

#[tokio::test]
async fn the_files_of_exports_go_with_their_person_and_with_their_time() {
    let rig = rig().await;
    let (near, far) = (Toy::new("solo/chain", &["First"]), Toy::new("pc2/far", &["Far"]));
    near.comes(&rig);
    let ask_for = async |n, user: &str| {
        let request = pb::RequestExportRequest { idempotency_key: key(n), user_id: user.into(), ..Default::default() };
        ask(&rig, system::REQUEST_EXPORT, request).await.unwrap().request.as_option().unwrap().clone()
    };
    let files = || {
        let mut names: Vec<String> = std::fs::read_dir(rig.data_dir().join("exports"))
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let (first, half) = (ask_for(1, "ana").await, ask_for(2, "juan").await);
    assert_eq!(files().len(), 2, "a part of each");
    let [kept] = rig.stores() else { panic!("one store") };
    let forgotten = kept.forget(&"juan".parse().unwrap()).await.unwrap();
    assert_eq!(forgotten.tables["export files"], 1);
    assert_eq!(kept.forget(&"juan".parse().unwrap()).await.unwrap().rows(), 0);
    let name = |request: &pb::DataRequest| request.path.rsplit('/').next().unwrap().to_owned();
    assert!(files().iter().all(|file| file.starts_with(&name(&first))), "{:?}", files());
    let half = request_of(&rig, &half.request_id).await;
    assert_eq!((half.state.as_str(), half.path.as_str()), ("closed", ""));

    far.comes(&rig);
    rig.reconcile("data").await.unwrap();
    assert_eq!(files(), [name(&first)], "nothing is made for whoever was forgotten");
    rig.clock.advance(Duration::from_hours(30 * 24) - Duration::from_secs(1));
    rig.reconcile("retention").await.unwrap();
    assert_eq!(files(), [name(&first)]);
    rig.clock.advance(Duration::from_secs(1));
    rig.reconcile("retention").await.unwrap();
    assert_eq!(files(), [""; 0]);
}

#[tokio::test]
async fn a_fleet_file_is_checked_with_every_finding() {
    let rig = rig().await;
    let plan = |text: &str| {
        let request = pb::PlanRequest { fleet_toml: text.into(), file_name: "mine.toml".into(), ..Default::default() };
        async { ask(&rig, system::PLAN, request).await.unwrap() }
    };
    let good = plan("").await;
    assert!(!good.plan_hash.is_empty() && good.text.contains("infra_core"), "{good:?}");
    let bad =
        plan(&tandem_fleet::SOLO.replace("port = 8201", "port = 8200").replace("ChitchatAgent", "ChatAgent")).await;
    assert!(bad.plan_hash.is_empty() && bad.findings.len() >= 2, "{bad:?}");
    assert_eq!(bad.findings[0].severity, "error");
    assert!(bad.findings[0].at.starts_with("mine.toml:"), "{:?}", bad.findings[0]);
}

#[tokio::test]
async fn every_kind_of_fault_is_named_in_one_answer() {
    let text = r#"[fleet]
name = "broken"
contract_ports = "8200-8210"

[node.a]
ram_mib = 1000
cpus = 2
colour = "red"

[[node.a.gpu]]
name = "NVIDIA GeForce RTX 3060"
vram_mib = 12288
sm = 28

[group."a/one"]
agents = [{ name = "ServiceRegistry", needs = ["SystemDigitalTwin"] }, "SystemDigitalTwin", "Not a name"]
needs = ["two"]
ram_mib = 600
port = 8200
gpu = { share = 70 }

[group."a/two"]
agents = ["ChitchatAgent", { name = "Responder", needs = ["UnifiedWebAgent", "Nobody"] }, "ChitchatAgent"]
needs = ["one"]
ram_mib = 600
port = 9999
gpu = { share = 40 }

[group."a/three"]
agents = ["UnifiedWebAgent"]
ram_mib = 100
port = 8200

[group."c/one"]
agents = ["ObservabilityHub"]
ram_mib = 100

[roles]
"llm.judge" = "no-such-model"
"#;
    let rig = rig().await;
    let request = pb::PlanRequest { fleet_toml: text.into(), file_name: "broken.toml".into(), ..Default::default() };
    let answer = ask(&rig, system::PLAN, request).await.unwrap();
    let codes: BTreeSet<&str> = answer.findings.iter().map(|finding| finding.code.as_str()).collect();
    for planted in [
        "unknown-key",
        "bad-name",
        "agent-circle",
        "group-circle",
        "need-missing",
        "need-later-stage",
        "duplicate-agent",
        "ram-over",
        "gpu-over",
        "port-clash",
        "port-outside",
        "unknown-node",
        "unknown-model",
        "role-unbound",
    ] {
        assert!(codes.contains(planted), "{planted} is not in {codes:?}");
    }
    assert!(answer.plan_hash.is_empty() && answer.text.is_empty(), "a broken file has no plan");
    assert!(answer.findings.iter().all(|finding| finding.severity == "note" || !finding.fix.is_empty()), "{answer:?}");
}

#[tokio::test]
async fn the_doctor_looks_at_groups_disk_clock_and_paths() {
    let rig = rig().await;
    let toy = Toy { echoes: false, ..Toy::new("solo/chain", &["First"]) };
    toy.comes(&rig);
    let checks = ask(&rig, system::DOCTOR, Default::default()).await.unwrap().checks;
    let outcome = |name: &str| {
        checks.iter().find(|check| check.name == name).map(|check| check.outcome.as_str()).unwrap_or("missing")
    };
    for (name, wanted) in [
        ("group: solo/chain", "pass"),
        ("group: pc2/far", "fail"),
        ("disk: data folder", "pass"),
        ("keys: groups", "pass"),
        ("keys: door", "missing"),
        ("clock: here", "fail"),
        ("message sizes: solo", "pass"),
        ("message sizes: pc2", "missing"),
        ("plan and contract", "pass"),
        ("models", "warn"),
    ] {
        // The rig's clock stands still, so files are written "after now".
        assert_eq!(outcome(name), wanted, "{name} in {checks:#?}");
    }
    assert_eq!(checks[0].outcome, "fail", "failed ones come first");
    assert!(checks.iter().all(|check| check.outcome == "pass" || !check.remedy.is_empty()), "{checks:#?}");
}

#[tokio::test]
async fn the_doctor_asks_for_models_of_the_roles_that_the_fleet_file_binds() {
    let manager = Service::new().unary(models::LIST_ROLES, |_, _: ListRolesRequest| async {
        let role = |role: &str, model: &str, state| RoleInfo {
            role: role.into(),
            model: model.into(),
            health: common::Health::from(&Health::new(state, "no model for this", at(0))).into(),
            ..Default::default()
        };
        let roles = vec![
            role("llm.tiny", "smol", State::Ready),
            role("llm.fast", "", State::Unavailable),
            role("llm.judge", "", State::Unavailable),
        ];
        Ok(ListRolesResponse { roles, ..Default::default() })
    });
    let rig = Rig::new(&DEF)
        .peer("ModelManagerSuite", manager)
        .role("llm.tiny", "smol")
        .role("llm.fast", "auto")
        .start()
        .await;
    let checks = ask(&rig, system::DOCTOR, Default::default()).await.unwrap().checks;
    let mut models: Vec<(&str, &str)> = checks
        .iter()
        .filter(|check| check.name.starts_with("model: "))
        .map(|check| (check.name.as_str(), check.outcome.as_str()))
        .collect();
    models.sort_unstable();
    assert_eq!(models, [("model: llm.fast", "fail"), ("model: llm.tiny", "pass")]);
}

#[tokio::test]
async fn a_machine_is_woken_by_its_packet_or_the_missing_setting_is_named() {
    let wake = || pb::WakeNodeRequest { node: "pc2".into(), ..Default::default() };
    let unset = rig().await;
    let fault = ask(&unset, system::WAKE_NODE, wake()).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::FailedPrecondition, reason::SETTING_MISSING));
    assert!(fault.message.contains("wake.pc2.mac"), "{fault}");
    let nowhere = pb::WakeNodeRequest { node: "pc9".into(), ..Default::default() };
    assert_eq!(ask(&unset, system::WAKE_NODE, nowhere).await.unwrap_err().code, Code::NotFound);

    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let broadcast = socket.local_addr().unwrap().to_string();
    let settings = json!({ "wake": { "pc2": { "mac": "0a:1b:2c:3d:4e:5f", "broadcast": broadcast } } });
    let rig = Rig::new(&DEF).settings(settings).fleet(fleet()).start().await;
    let sleeper = async {
        let mut packet = [0; 200];
        let length = socket.recv(&mut packet).await.unwrap();
        assert_eq!(packet[..length], magic_packet([0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f]));
        Toy::new("pc2/far", &["Far"]).comes(&rig);
    };
    let (woken, ()) = tokio::join!(ask(&rig, system::WAKE_NODE, wake()), sleeper);
    assert!(woken.unwrap().seconds > 0.0);

    let wrong = json!({ "wake": { "pc2": { "mac": "oops", "broadcast": "here" } } });
    let Err(fault) = Rig::new(&DEF).settings(wrong).fleet(fleet()).try_start().await else { panic!("it started") };
    assert_eq!(fault.violations.len(), 2, "{fault}");
}

#[tokio::test]
async fn the_overview_says_what_is_and_what_is_not_there() {
    let rig = rig().await;
    Toy::new("solo/chain", &["First", "Second"]).comes(&rig);
    let maintenance = pb::SetMaintenanceRequest {
        idempotency_key: key(1),
        scope: "solo/chain".into(),
        to_us: at(600).micros(),
        reason: "new disk".into(),
        ..Default::default()
    };
    ask(&rig, system::SET_MAINTENANCE, maintenance.clone()).await.unwrap();
    let wrong = pb::SetMaintenanceRequest { scope: "solo/none".into(), to_us: 5, ..maintenance };
    assert_eq!(ask(&rig, system::SET_MAINTENANCE, wrong).await.unwrap_err().violations.len(), 2);
    let seen = ask(&rig, system::GET_OVERVIEW, Default::default()).await.unwrap();
    let states: Vec<(String, State)> =
        seen.groups.iter().map(|g| (g.group.clone(), Health::from(g.health.as_option().unwrap()).state)).collect();
    let state = |group: &str, state| (group.to_owned(), state);
    assert_eq!(
        states,
        [
            state("solo/under_test", State::Unavailable),
            state("solo/chain", State::Ready),
            state("pc2/far", State::Unknown)
        ]
    );
    assert_eq!(seen.maintenance[0].reason, "new disk");

    let page = pb::ListServicesRequest { page_size: 2, ..Default::default() };
    let first = ask(&rig, system::LIST_SERVICES, page).await.unwrap();
    let rest = pb::ListServicesRequest { page_token: first.next_page_token.clone(), ..Default::default() };
    let rest = ask(&rig, system::LIST_SERVICES, rest).await.unwrap();
    let all: Vec<&str> = first.services.iter().chain(&rest.services).map(|s| s.agent.as_str()).collect();
    assert_eq!((first.services.len(), all.len(), rest.next_page_token.as_str()), (2, 5, ""));
    assert!(all.is_sorted());
}
