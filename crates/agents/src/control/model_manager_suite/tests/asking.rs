//! Roles, models and tickets.

use super::*;

#[tokio::test]
async fn with_no_model_every_role_says_why() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "smollm2-135m"), ("llm.fast", "auto")]).await;
    rig.reconcile("files").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(rig.health().state, State::Ready, "the agent itself can do its work");
    for (name, says) in [
        ("llm.tiny", "get it with `tandem models pull smollm2-135m`"),
        ("llm.fast", "tandem models pull"),
        ("llm.smart", "no model for llm.smart"),
    ] {
        let (state, cause, info) = role(&rig, name).await;
        assert_eq!((state, info.model.as_str()), (State::Unavailable, ""));
        assert!(cause.starts_with(&format!("no model for {name}")) && cause.contains(says), "{cause}");
        let fault = acquire(&rig, name, 0).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::NO_MODEL));
        assert_eq!(fault.message, format!("no model for {name}"));
    }
    assert!(lock(&world.started).is_empty());
    let told: Vec<String> = rig.events().into_iter().map(|event| event.key).collect();
    assert!(told.contains(&"llm.tiny".to_owned()), "{told:?}");
}

#[tokio::test]
async fn a_registered_model_is_loaded_lent_used_and_counted() {
    let (world, _folder, rig) = loaded().await;
    let started = lock(&world.started).clone();
    let [order] = &started[..] else { panic!("one engine: {started:?}") };
    assert_eq!((order.model.as_str(), order.kind.as_str(), order.slots), ("test-model", "llama", 2));
    assert_eq!(order.context_tokens, 512, "no more than the model was made for");
    let ticket = acquire(&rig, "llm.fast", 0).await.unwrap();
    assert_eq!((ticket.endpoint.as_str(), ticket.model.as_str()), (world.endpoint.as_str(), "test-model"));
    assert_eq!((ticket.bound_to.as_str(), ticket.context_tokens, ticket.slots), ("llm.fast", 512, 2));
    assert_eq!(ticket.expires_us, (rig.clock.now() + Duration::from_secs(600)).micros());
    let usage = common::TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..Default::default() };
    let used = pb::RecordUseRequest {
        idempotency_key: vec![5; 16],
        ticket_id: ticket.ticket_id.clone(),
        usage: usage.into(),
        duration_ms: 20,
        outcome: "ok".into(),
        ..Default::default()
    };
    for _ in 0..2 {
        rig.client().unary(models::RECORD_USE, used.clone(), &rig.call()).await.unwrap();
    }
    let strange = pb::RecordUseRequest { outcome: "fine".into(), ..used };
    let fault = rig.client().unary(models::RECORD_USE, strange, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::InvalidArgument);
    let release = pb::ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
    rig.client().unary(models::RELEASE, release, &rig.call()).await.unwrap();
    let stats = rig.client().unary(models::GET_STATS, Default::default(), &rig.call()).await.unwrap();
    let [uses] = &stats.uses[..] else { panic!("one model was used") };
    assert_eq!((uses.tickets, uses.prompt_tokens, uses.completion_tokens, uses.failures), (1, 7, 3, 0));
    let [share] = &stats.shares[..] else { panic!("one share") };
    assert_eq!((share.group.as_str(), share.budget_bytes), ("solo/paying", 8 << 30));
    assert_eq!(share.measured_bytes, 60 << 20);
    assert!(share.leased_bytes >= share.measured_bytes && share.leased_bytes <= order.lease_bytes);
    let reported = lock(&world.leases).clone();
    assert_eq!((reported[0].leased_bytes, reported[0].measured_bytes), (share.leased_bytes, Some(60 << 20)));
    assert!(role(&rig, "llm.fast").await.2.capable, "it has answered");
}

#[tokio::test]
async fn a_load_names_who_pays_and_a_manifest_its_quality() {
    let (_world, folder, rig) = loaded().await;
    let load = |share: &str| {
        let request = pb::LoadRequest { model: "test-model".into(), share: share.into(), ..Default::default() };
        let (rig, call) = (&rig, rig.call());
        async move { rig.client().unary(models::LOAD, request, &call).await }
    };
    for share in ["", "solo/paying"] {
        assert_eq!(load(share).await.unwrap().model.into_option().unwrap().state, "loaded");
    }
    let fault = load("solo/other").await.unwrap_err();
    assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "share"));
    let better =
        pb::ModelInfo { name: "better".into(), quality: 9, ..manifest(&folder.path().join("test-model.gguf")) };
    assert_eq!(register_with(&rig, 9, better).await.unwrap().quality, 9);
}

#[tokio::test]
async fn many_who_wait_share_one_load() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "test-model")]).await;
    register(&rig, manifest(&model_file(folder.path()))).await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::MODEL_LOADING));
    assert!(fault.retry_after.is_some());
    let waiting = futures::future::join_all((0..50).map(|_| acquire(&rig, "llm.fast", 20_000)));
    let (tickets, loaded) = tokio::join!(waiting, rig.reconcile("load"));
    loaded.unwrap();
    assert!(tickets.iter().all(|ticket| ticket.as_ref().is_ok_and(|t| t.model == "test-model")), "{tickets:?}");
    assert_eq!(lock(&world.started).len(), 1);
}

#[tokio::test]
async fn fifty_callers_of_three_roles_in_a_share_for_two_are_all_answered() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let roles = [("llm.tiny", "small"), ("llm.fast", "middle"), ("llm.smart", "large")];
    // An engine of these files takes some 70 MiB, so that a third one has no room beside two.
    let rig = world.rig_with(folder.path(), &roles, 8_192 - 190).await;
    let file = model_file(folder.path());
    for (key, (role, name)) in (1..).zip(roles) {
        let model = pb::ModelInfo { name: name.into(), roles: vec![role.into()], ..manifest(&file) };
        register_with(&rig, key, model).await.unwrap();
    }
    let use_one = |n: usize| {
        let (rig, (role, model)) = (&rig, roles[n % 3]);
        async move {
            let request = pb::AcquireRequest { role: role.into(), max_wait_ms: 60_000, ..Default::default() };
            let call = rig.call().within(Duration::from_secs(60), std::time::Instant::now());
            let ticket = rig.client().unary(models::ACQUIRE, request, &call).await?.ticket.into_option().unwrap();
            assert_eq!((ticket.model.as_str(), ticket.fallback_reason.as_str()), (model, ""));
            let release = pb::ReleaseRequest { ticket_id: ticket.ticket_id, ..Default::default() };
            rig.client().unary(models::RELEASE, release, &call).await.map(drop)
        }
    };
    let callers = futures::future::join_all((0..50).map(use_one));
    let running = async {
        loop {
            rig.clock.advance(Duration::from_millis(500));
            rig.reconcile("look").await.unwrap();
            rig.reconcile("load").await.unwrap();
            let stats = rig.client().unary(models::GET_STATS, Default::default(), &rig.call()).await.unwrap();
            let share = &stats.shares[0];
            assert_eq!(share.budget_bytes, 190 << 20);
            assert!(
                share.leased_bytes <= share.budget_bytes && share.measured_bytes <= share.budget_bytes,
                "{share:?}"
            );
            assert!(lock(&world.engines).len() <= 2, "a third engine runs");
        }
    };
    let answers = tokio::select! {
        answers = callers => answers,
        () = running => unreachable!("it goes on until all are answered"),
    };
    for answer in answers {
        answer.unwrap();
    }
    let started: Vec<String> = lock(&world.started).iter().map(|order| order.model.clone()).collect();
    assert_eq!(started[0], "small", "the resident one comes first");
    assert!(["middle", "large"].iter().all(|model| started.iter().any(|name| name == model)), "{started:?}");
}

#[tokio::test]
async fn manifests_are_checked() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[]).await;
    let good = manifest(&model_file(folder.path()));
    let bad = pb::ModelInfo { name: "a b".into(), sha256: "12".into(), roles: vec![], ..good.clone() };
    let fields: Vec<String> =
        register(&rig, bad).await.unwrap_err().violations.into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["model.name", "model.sha256", "model.roles"]);
    let wrong_hash = pb::ModelInfo { sha256: "0".repeat(64), ..good.clone() };
    let gone = pb::ModelInfo { path: "/nowhere/x.gguf".into(), ..good.clone() };
    let taken = pb::ModelInfo { name: "smollm2-135m".into(), ..good.clone() };
    for (model, code) in [(wrong_hash, Code::FailedPrecondition), (gone, Code::NotFound), (taken, Code::Conflict)] {
        assert_eq!(register(&rig, model).await.unwrap_err().code, code);
    }
    let known = register(&rig, good.clone()).await.unwrap();
    assert_eq!((known.state.as_str(), known.context_tokens), ("on_disk", 512));
    assert!(known.estimate_bytes > 64 << 20);
    assert_eq!(register(&rig, pb::ModelInfo { licence: "X".into(), ..good }).await.unwrap_err().code, Code::Conflict);
}

#[tokio::test]
async fn roles_are_bound_and_rolled_back_for_good() {
    let (_world, _folder, mut rig) = loaded().await;
    let bind = |key: u8, role: &str, model: &str| {
        let request = pb::BindRoleRequest {
            idempotency_key: vec![key; 16],
            role: role.into(),
            model: model.into(),
            ..Default::default()
        };
        let (client, call) = (rig.client(), rig.call());
        async move { client.unary(models::BIND_ROLE, request, &call).await.map(|r| r.role.into_option().unwrap()) }
    };
    assert_eq!(bind(2, "llm.fast", "unheard").await.unwrap_err().code, Code::NotFound);
    assert_eq!(bind(2, "llm.smart", "test-model").await.unwrap_err().code, Code::FailedPrecondition);
    let bound = bind(3, "llm.fast", "qwen2.5-coder-0.5b").await.unwrap();
    assert_eq!((bound.model.as_str(), bound.bound_to.as_str()), ("test-model", "llm.tiny"), "its file is not here");
    rig.restart().await;
    rig.reconcile("files").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.fast").await;
    assert_ne!(state, State::Ready);
    assert!(cause.contains("tandem models pull qwen2.5-coder-0.5b"), "{cause}");
    let request = pb::RollbackRequest { idempotency_key: vec![4; 16], role: "llm.fast".into(), ..Default::default() };
    let back = rig.client().unary(models::ROLLBACK, request.clone(), &rig.call()).await.unwrap();
    assert_eq!(back.role.as_option().unwrap().bound_to, "", "its own model again, as the fleet file says");
    let again = pb::RollbackRequest { idempotency_key: vec![5; 16], ..request };
    let fault = rig.client().unary(models::ROLLBACK, again, &rig.call()).await.unwrap_err();
    assert_eq!(fault.code, Code::FailedPrecondition);
}

#[tokio::test]
async fn settings_that_mean_nothing_are_refused() {
    for (settings, says) in
        [(json!({ "slotz": 3 }), "slotz"), (json!({ "home": "solo/nowhere" }), "no group solo/nowhere")]
    {
        let fault = Rig::new(&DEF).settings(settings).try_start().await.err().expect("the agent does not start");
        assert!(fault.message.contains(says), "{fault}");
    }
}
