//! Adapters: registered, published for a share of the conversations, taken back, evaluated.

use tandem_engine::gguf::{GgufInfo, sample_adapter};

use super::*;

fn adapter_file(folder: &Path, name: &str, seed: u8) -> PathBuf {
    let model = GgufInfo::read(&folder.join("test-model.gguf")).unwrap();
    let path = folder.join(format!("{name}-to-add.gguf"));
    std::fs::write(&path, sample_adapter(&model, seed.into())).unwrap();
    path
}

fn adapter(folder: &Path, name: &str, seed: u8) -> pb::ModelInfo {
    let manifest = manifest(&adapter_file(folder, name, seed));
    pb::ModelInfo { name: name.into(), base: "test-model".into(), roles: vec![], ..manifest }
}

/// A loaded model with two adapters.
async fn adapted() -> (World, TempDir, Running) {
    let (world, folder, rig) = loaded().await;
    for (key, name) in [(11, "warm"), (12, "new")] {
        let known = register_with(&rig, key, adapter(folder.path(), name, key)).await.unwrap();
        assert_eq!((known.state.as_str(), known.base.as_str()), ("on_disk", "test-model"), "{known:?}");
        std::fs::remove_file(folder.path().join(format!("{name}-to-add.gguf"))).unwrap();
    }
    (world, folder, rig)
}

async fn publish(rig: &Running, key: u8, name: &str, role: &str, percent: u32) -> Result<pb::RoleInfo, Fault> {
    let request = pb::PublishAdapterRequest {
        idempotency_key: vec![key; 16],
        adapter: name.into(),
        role: role.into(),
        canary_percent: percent,
        ..Default::default()
    };
    rig.client().unary(models::PUBLISH_ADAPTER, request, &rig.call()).await.map(|r| r.role.into_option().unwrap())
}

async fn roll_back(rig: &Running, key: u8) -> Result<pb::RoleInfo, Fault> {
    let request = pb::RollbackRequest { idempotency_key: vec![key; 16], role: "llm.fast".into(), ..Default::default() };
    rig.client().unary(models::ROLLBACK, request, &rig.call()).await.map(|r| r.role.into_option().unwrap())
}

async fn ticket(rig: &Running, role: &str, session: &str) -> pb::Ticket {
    let request = pb::AcquireRequest { role: role.into(), session_key: session.into(), ..Default::default() };
    rig.client().unary(models::ACQUIRE, request, &rig.call()).await.unwrap().ticket.into_option().unwrap()
}

/// The adapters of 200 conversations.
async fn given(rig: &Running) -> Vec<String> {
    let mut adapters = Vec::new();
    for n in 0..200 {
        let ticket = ticket(rig, "llm.fast", &format!("s{n}")).await;
        adapters.push(ticket.adapter);
        let release = pb::ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
        rig.client().unary(models::RELEASE, release, &rig.call()).await.unwrap();
    }
    adapters
}

fn count(adapters: &[String], name: &str) -> usize {
    adapters.iter().filter(|adapter| *adapter == name).count()
}

fn said(role: &pb::RoleInfo) -> (&str, u32, &str) {
    (role.adapter.as_str(), role.canary_percent, role.adapter_of_others.as_str())
}

#[tokio::test]
async fn an_adapter_goes_to_a_share_of_the_conversations_then_to_all_and_is_taken_back() {
    let (world, _folder, mut rig) = adapted().await;
    assert!(given(&rig).await.iter().all(String::is_empty));
    let before = rig.events().len();
    assert_eq!(said(&publish(&rig, 21, "warm", "llm.fast", 10).await.unwrap()), ("warm", 10, ""));
    let told = rig.events().into_iter().skip(before).map(|event| event.key).collect::<Vec<_>>();
    assert_eq!(told, ["llm.fast"], "who keeps tickets hears of it");
    let few = given(&rig).await;
    assert!((8..=35).contains(&count(&few, "warm")), "{few:?}");
    let plain = (0..200).find(|n| few[*n].is_empty()).unwrap();
    let one = ticket(&rig, "llm.fast", &format!("s{plain}")).await;
    assert!(one.one_conversation && one.adapter.is_empty());
    assert_eq!(ticket(&rig, "llm.tiny", "s1").await.adapter, "", "it was published for one role");

    // The same conversations after a restart of the agent, whose engine goes on.
    rig.restart().await;
    rig.reconcile("look").await.unwrap();
    rig.reconcile("files").await.unwrap();
    rig.reconcile("look").await.unwrap();
    assert_eq!(given(&rig).await, few);
    assert_eq!(lock(&world.started).len(), 1);

    assert_eq!(said(&publish(&rig, 22, "warm", "llm.fast", 100).await.unwrap()), ("warm", 100, ""));
    assert_eq!(said(&publish(&rig, 22, "warm", "llm.fast", 100).await.unwrap()), ("warm", 100, ""), "sent twice");
    assert_eq!(count(&given(&rig).await, "warm"), 200);
    assert_eq!(said(&publish(&rig, 23, "new", "llm.fast", 30).await.unwrap()), ("new", 30, "warm"));
    let third = given(&rig).await;
    assert!((35..=90).contains(&count(&third, "new")), "{third:?}");
    assert_eq!(count(&third, "warm"), 200 - count(&third, "new"), "the others have what all had");

    assert_eq!(said(&roll_back(&rig, 24).await.unwrap()), ("warm", 100, ""));
    let plain = roll_back(&rig, 25).await.unwrap();
    assert_eq!((said(&plain), plain.model.as_str()), (("", 0, ""), "test-model"), "as the fleet file says");
    assert!(given(&rig).await.iter().all(String::is_empty));
    assert_eq!(roll_back(&rig, 26).await.unwrap_err().code, Code::FailedPrecondition);
    rig.restart().await;
    assert_eq!(said(&role(&rig, "llm.fast").await.2), ("", 0, ""));
}

#[tokio::test]
async fn binding_a_role_takes_its_adapter_away() {
    let (_world, _folder, rig) = adapted().await;
    publish(&rig, 21, "warm", "llm.fast", 100).await.unwrap();
    let request = pb::BindRoleRequest {
        idempotency_key: vec![22; 16],
        role: "llm.fast".into(),
        model: "test-model".into(),
        ..Default::default()
    };
    let bound = rig.client().unary(models::BIND_ROLE, request, &rig.call()).await.unwrap().role.into_option().unwrap();
    assert_eq!(said(&bound), ("", 0, ""));
    assert_eq!(
        said(&roll_back(&rig, 23).await.unwrap()),
        ("warm", 100, ""),
        "the binding is taken back, and it is there again"
    );
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_the_reason() {
    let (_world, _folder, rig) = adapted().await;
    let fault = publish(&rig, 1, "", "", 0).await.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["role", "adapter", "canary_percent"]);
    assert_eq!(publish(&rig, 2, "warm", "llm.fast", 101).await.unwrap_err().code, Code::InvalidArgument);
    for (adapter, role, code) in [
        ("unheard", "llm.fast", Code::NotFound),
        ("warm", "llm.unheard", Code::NotFound),
        ("warm", "llm.smart", Code::FailedPrecondition),
    ] {
        assert_eq!(publish(&rig, 3, adapter, role, 10).await.unwrap_err().code, code, "{adapter} {role}");
    }
    publish(&rig, 4, "warm", "llm.fast", 10).await.unwrap();
    assert_eq!(publish(&rig, 4, "new", "llm.fast", 10).await.unwrap_err().reason, reason::KEY_REUSED);
}

#[tokio::test]
async fn everything_that_is_wrong_with_an_adapter_is_said_at_once() {
    let (_world, folder, rig) = loaded().await;
    let good = adapter(folder.path(), "warm", 1);
    let fields = |fault: Fault| fault.violations.into_iter().map(|v| v.field).collect::<Vec<_>>();
    let bad = pb::ModelInfo {
        name: "../warm".into(),
        base: "unheard".into(),
        roles: vec!["llm.fast".into()],
        licence: String::new(),
        ..good.clone()
    };
    let fault = register(&rig, bad).await.unwrap_err();
    assert_eq!(fields(fault), ["model.name", "model.licence", "model.roles", "model.base"]);

    // A model is no adapter, and its hash is not the one that was given either.
    let wrong =
        pb::ModelInfo { path: folder.path().join("test-model.gguf").to_string_lossy().into_owned(), ..good.clone() };
    let fault = register(&rig, wrong).await.unwrap_err();
    assert_eq!(fault.code, Code::FailedPrecondition);
    assert!(fault.message.contains("general.type") && fault.message.contains("adapter.type"), "{fault}");
    assert_eq!(fields(fault)[..3], ["model.sha256", "model.path", "model.path"]);
    let absent = pb::ModelInfo { base: "smollm2-135m".into(), ..good.clone() };
    let fault = register(&rig, absent).await.unwrap_err();
    assert!(fault.code == Code::FailedPrecondition && fault.message.contains("tandem models pull"), "{fault}");
    let as_model = pb::ModelInfo { base: String::new(), roles: vec!["llm.fast".into()], ..good.clone() };
    let fault = register(&rig, as_model).await.unwrap_err();
    assert!(fault.message.contains("is an adapter"), "{fault}");
    let left: Vec<_> = std::fs::read_dir(rig.data_dir().join("adapters")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    register_with(&rig, 2, good.clone()).await.unwrap();
    register_with(&rig, 3, good.clone()).await.unwrap();
    let other = adapter(folder.path(), "warm", 2);
    let as_model = pb::ModelInfo { base: String::new(), roles: vec!["llm.fast".into()], ..good.clone() };
    for taken in [other, as_model, pb::ModelInfo { name: "test-model".into(), ..good }] {
        let fault = register_with(&rig, 4, taken).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Conflict, "name_taken"), "{fault}");
    }
}

#[tokio::test]
async fn a_corrupt_adapter_is_quarantined_and_answers_go_without_it() {
    let (world, _folder, mut rig) = adapted().await;
    publish(&rig, 21, "warm", "llm.fast", 100).await.unwrap();
    let folder = PathBuf::from(&lock(&world.started)[0].adapters);
    let path = folder.join("warm.gguf");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    rig.restart().await;
    rig.reconcile("look").await.unwrap();
    rig.reconcile("files").await.unwrap();
    rig.reconcile("look").await.unwrap();
    let (state, cause, info) = role(&rig, "llm.fast").await;
    assert_eq!((state, info.adapter.as_str()), (State::Degraded, "warm"));
    assert!(cause.contains("warm is in quarantine") && cause.contains("sha256"), "{cause}");
    assert_eq!(ticket(&rig, "llm.fast", "s").await.adapter, "");
    let known = rig.client().unary(models::LIST_MODELS, Default::default(), &rig.call()).await.unwrap().models;
    let state = |name: &str| known.iter().find(|model| model.name == name).unwrap().state.as_str();
    assert_eq!((state("warm"), state("new")), ("quarantined", "on_disk"));
    assert!(known.is_sorted_by_key(|model| &model.name));
    std::fs::write(&path, whole).unwrap();
    rig.reconcile("files").await.unwrap();
    assert_eq!(ticket(&rig, "llm.fast", "s").await.adapter, "warm");
    assert_eq!(role(&rig, "llm.fast").await.0, State::Ready);
}

#[tokio::test]
async fn an_adapter_is_evaluated_on_its_model() {
    let (_world, _folder, rig) = adapted().await;
    let evaluate = |key: u8, model: &str, adapter: &str| {
        let request = pb::EvaluateRequest {
            idempotency_key: vec![key; 16],
            model: model.into(),
            adapter: adapter.into(),
            ..Default::default()
        };
        let (client, call) = (rig.client(), rig.call());
        async move { client.unary(models::EVALUATE, request, &call).await.map(|r| r.evaluation.into_option().unwrap()) }
    };
    let last = |adapter: &str| {
        let request =
            pb::GetEvaluationRequest { model: "test-model".into(), adapter: adapter.into(), ..Default::default() };
        let (client, call) = (rig.client(), rig.call());
        async move {
            client.unary(models::GET_EVALUATION, request, &call).await.map(|r| r.evaluation.into_option().unwrap())
        }
    };
    let report = evaluate(31, "", "warm").await.unwrap();
    assert_eq!((report.model.as_str(), report.adapter.as_str()), ("test-model", "warm"));
    assert!(report.questions.iter().all(|question| question.answer.starts_with("warm: ")), "{report:?}");
    let plain = evaluate(32, "test-model", "").await.unwrap();
    assert!(plain.adapter.is_empty() && !plain.questions[0].answer.starts_with("warm: "));
    assert_eq!((last("warm").await.unwrap(), last("").await.unwrap()), (report, plain));
    let fault = last("new").await.unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::NotFound, "test-model was not evaluated with new yet"));
    assert_eq!(evaluate(31, "test-model", "").await.unwrap_err().reason, reason::KEY_REUSED);
    assert_eq!(evaluate(33, "", "unheard").await.unwrap_err().code, Code::NotFound);
    assert_eq!(evaluate(34, "smollm2-135m", "warm").await.unwrap_err().code, Code::FailedPrecondition);
}
