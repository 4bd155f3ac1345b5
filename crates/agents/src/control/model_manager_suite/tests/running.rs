//! Engines and files that fail, come back, and outlive the agent.

use super::*;

#[tokio::test]
async fn a_corrupt_file_is_quarantined_until_it_is_whole_again() {
    let (world, folder, mut rig) = loaded().await;
    let path = folder.path().join("test-model.gguf");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    lock(&world.engines).clear();
    rig.restart().await;
    rig.reconcile("look").await.unwrap();
    rig.reconcile("files").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.tiny").await;
    assert_eq!(state, State::Unavailable);
    assert!(cause.contains("test-model is in quarantine") && cause.contains("sha256"), "{cause}");
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap_err().code, Code::Internal);
    std::fs::write(&path, whole).unwrap();
    rig.reconcile("files").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap().model, "test-model");
}

#[tokio::test]
async fn engines_outlive_the_agent() {
    let (world, _folder, mut rig) = loaded().await;
    rig.restart().await;
    rig.reconcile("files").await.unwrap();
    rig.reconcile("load").await.unwrap();
    rig.reconcile("look").await.unwrap();
    rig.reconcile("load").await.unwrap();
    assert_eq!(acquire(&rig, "llm.tiny", 0).await.unwrap().endpoint, world.endpoint);
    assert_eq!(lock(&world.started).len(), 1, "nothing was loaded twice");
    let models = rig.client().unary(models::LIST_MODELS, Default::default(), &rig.call()).await.unwrap().models;
    let model = models.iter().find(|model| model.name == "test-model").unwrap();
    assert_eq!(model.measured_bytes, Some(60 << 20), "what was measured is remembered");
}

#[tokio::test]
async fn a_dead_engine_is_noticed_at_the_first_complaint() {
    let (world, _folder, rig) = loaded().await;
    let ticket = acquire(&rig, "llm.tiny", 0).await.unwrap();
    let starting = Health::new(State::Starting, "starting again in 1 s", Timestamp::default());
    lock(&world.engines)[0].health = common::Health::from(&starting).into();
    let lost = pb::RecordUseRequest {
        idempotency_key: vec![6; 16],
        ticket_id: ticket.ticket_id,
        outcome: "unavailable".into(),
        ..Default::default()
    };
    rig.client().unary(models::RECORD_USE, lost, &rig.call()).await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.reason.as_str()), (Code::Unavailable, reason::ENGINE_LOST));
    rig.reconcile("look").await.unwrap();
    let (state, cause, _) = role(&rig, "llm.tiny").await;
    assert_eq!(state, State::Unavailable);
    assert!(cause.contains("starting again in 1 s"), "{cause}");
    let ready = Health::new(State::Ready, "", Timestamp::default());
    lock(&world.engines)[0].health = common::Health::from(&ready).into();
    let (ticket, looked) = tokio::join!(acquire(&rig, "llm.tiny", 20_000), rig.reconcile("look"));
    looked.unwrap();
    assert_eq!(ticket.unwrap().model, "test-model", "who waits gets it when it is back");
}

#[tokio::test]
async fn what_cannot_be_started_is_said() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[("llm.tiny", "test-model")]).await;
    register(&rig, manifest(&model_file(folder.path()))).await.unwrap();
    *lock(&world.deny) = true;
    rig.reconcile("load").await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!(fault.code, Code::ResourceExhausted);
    assert!(fault.message.contains("the limit is 1 MiB") && fault.retry_after.is_some(), "{fault}");
    *lock(&world.deny) = false;
    *lock(&world.broken) = Some(Fault::internal("the engine did not load the file"));
    rig.clock.advance(Duration::from_secs(6));
    rig.reconcile("load").await.unwrap();
    let fault = acquire(&rig, "llm.tiny", 0).await.unwrap_err();
    assert_eq!((fault.code, fault.message.as_str()), (Code::Internal, "the engine did not load the file"));
    *lock(&world.broken) = None;
    rig.clock.advance(Duration::from_secs(11));
    rig.reconcile("load").await.unwrap();
    acquire(&rig, "llm.tiny", 0).await.unwrap();
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_by_name() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let rig = world.rig(folder.path(), &[]).await;
    let only_fast = pb::ModelInfo { roles: vec!["llm.fast".into()], ..manifest(&model_file(folder.path())) };
    register(&rig, only_fast).await.unwrap();
    let load = |model: &str| {
        let request = pb::LoadRequest { model: model.into(), pinned: true, ..Default::default() };
        let (client, call) = (rig.client(), Call::from_door("test"));
        async move { client.unary(models::LOAD, request, &call).await.map(|r| r.model.into_option().unwrap()) }
    };
    assert_eq!(load("unheard").await.unwrap_err().code, Code::NotFound);
    assert_eq!(load("smollm2-135m").await.unwrap_err().reason, reason::NO_MODEL);
    let (model, done) = tokio::join!(load("test-model"), rig.reconcile("load"));
    done.unwrap();
    assert_eq!(model.unwrap().state, "loaded");
    settle(&rig).await;
    let unload = || {
        let request = pb::UnloadRequest { model: "test-model".into(), drain_ms: 100, ..Default::default() };
        let (client, call) = (rig.client(), Call::from_door("test"));
        async move { client.unary(models::UNLOAD, request, &call).await }
    };
    let unloading = async {
        loop {
            rig.reconcile("load").await.unwrap();
            if lock(&world.engines).is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let (freed, ()) = tokio::join!(unload(), unloading);
    assert_eq!(freed.unwrap().freed_bytes, Some(60 << 20));
    assert_eq!(unload().await.unwrap().freed_bytes, None, "it is not loaded");
    rig.reconcile("load").await.unwrap();
    assert!(lock(&world.engines).is_empty(), "nobody asked for it again");
}

#[tokio::test]
async fn an_engine_nobody_asked_proves_itself() {
    let (_world, _folder, rig) = loaded().await;
    assert!(!role(&rig, "llm.tiny").await.2.capable);
    rig.reconcile("prove").await.unwrap();
    assert!(role(&rig, "llm.tiny").await.2.capable);
    rig.clock.advance(Duration::from_secs(601));
    assert!(!role(&rig, "llm.tiny").await.2.capable);
}

#[tokio::test]
async fn a_silent_host_is_a_reason_to_be_degraded() {
    let (_world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let settings = json!({ "models": folder.path() });
    let rig = Rig::new(&DEF).settings(settings).start().await;
    for _ in 0..3 {
        rig.reconcile("look").await.unwrap_err();
    }
    let health = rig.health();
    assert_eq!(health.state, State::Degraded);
    assert!(health.cause.contains("does not tell of its engines"), "{}", health.cause);
}
