//! Evaluations.

use super::*;

async fn evaluate(rig: &Running, key: u8, model: &str, suite: &str) -> Result<pb::Evaluation, Fault> {
    let request = pb::EvaluateRequest {
        idempotency_key: vec![key; 16],
        model: model.into(),
        suite: suite.into(),
        ..Default::default()
    };
    rig.client().unary(models::EVALUATE, request, &rig.call()).await.map(|r| r.evaluation.into_option().unwrap())
}

async fn evaluation(rig: &Running, id: &str, model: &str) -> Result<pb::Evaluation, Fault> {
    let request = pb::GetEvaluationRequest { evaluation_id: id.into(), model: model.into(), ..Default::default() };
    rig.client().unary(models::GET_EVALUATION, request, &rig.call()).await.map(|r| r.evaluation.into_option().unwrap())
}

#[tokio::test]
async fn a_model_is_asked_a_suite_and_the_report_is_kept() {
    let (_world, _folder, mut rig) = loaded().await;
    let report = evaluate(&rig, 7, "test-model", "").await.unwrap();
    assert_eq!((report.model.as_str(), report.suite.as_str()), ("test-model", "chat"));
    let of = |name: &str| report.questions.iter().find(|question| question.name == name).unwrap();
    assert!(of("name").passed && of("name").answer == "Your name is Maria.", "{report:?}");
    assert_eq!((of("capital").passed, of("capital").cause.as_str()), (false, "has no `Paris`"));
    let passed = report.questions.iter().filter(|question| question.passed).count();
    assert_eq!(report.score, passed as f32 / report.questions.len() as f32);
    let asked = report.questions.len() as u32;
    let usage = report.usage.as_option().unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (20 * asked, 5 * asked));
    assert_eq!(report.tokens_per_second, 50.0);

    // The engine is free again, and the report outlives the agent.
    let unload = pb::UnloadRequest { model: "test-model".into(), ..Default::default() };
    let refused = rig.client().unary(models::UNLOAD, unload, &rig.call()).await.unwrap_err();
    assert_eq!(refused.reason, "always_resident");
    rig.restart().await;
    assert_eq!(evaluation(&rig, "", "test-model").await.unwrap(), report);
    assert_eq!(evaluation(&rig, &report.evaluation_id, "").await.unwrap(), report);
    assert_eq!(evaluate(&rig, 7, "test-model", "chat").await.unwrap(), report, "the same key gets the first report");
}

#[tokio::test]
async fn a_suite_of_conversations_is_put_as_the_agent_that_has_them_does() {
    let (world, _folder, rig) = loaded().await;
    evaluate(&rig, 8, "test-model", "chitchat").await.unwrap();
    let asked = lock(&world.asked);
    let of = |text: &str| asked.iter().find(|asked| asked.messages.last().unwrap().content == text).unwrap();
    let told = |text: &str| of(text).messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>();
    let en = told("How do I keep bread fresh?");
    assert!(en.len() == 2 && en[0].starts_with("You are Tandem"), "{en:?}");
    let tl = told("Gusto kong matutong lumangoy, mahirap ba iyon?");
    assert!(tl[0].starts_with("Ikaw si Tandem") && tl[0].contains("Sumagot sa Tagalog"), "{tl:?}");
    assert_eq!(tl[1..3], ["Hello, how are you?", "I am fine, thank you! How can I help?"]);
}

#[tokio::test]
async fn what_cannot_be_evaluated_is_refused_with_the_reason() {
    let (world, _folder, rig) = loaded().await;
    let fault = evaluate(&rig, 1, "", "poetry").await.unwrap_err();
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!((fault.code, named), (Code::InvalidArgument, vec!["model", "suite"]));
    assert!(fault.violations[1].problem.contains("there are chat"), "{fault:?}");
    assert_eq!(evaluate(&rig, 2, "unheard-of", "").await.unwrap_err().code, Code::NotFound);
    assert_eq!(evaluation(&rig, "", "test-model").await.unwrap_err().code, Code::NotFound);
    assert_eq!(evaluation(&rig, "", "").await.unwrap_err().code, Code::InvalidArgument);
    evaluate(&rig, 3, "test-model", "").await.unwrap();
    assert_eq!(evaluate(&rig, 3, "other", "").await.unwrap_err().reason, reason::KEY_REUSED);

    let silent = world.silent.lock().await;
    let both = [4, 5].map(|key| Box::pin(evaluate(&rig, key, "test-model", "")));
    let (refused, _, mut rest) = futures::future::select_all(both).await;
    assert_eq!(refused.unwrap_err().reason, reason::QUEUE_FULL);
    drop(silent);
    rest.remove(0).await.unwrap();
    assert_eq!(lock(&world.started).len(), 1);
}
