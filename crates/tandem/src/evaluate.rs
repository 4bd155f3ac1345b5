//! `tandem models evaluate`: how well models answer, on this machine.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use tandem_contract::pb::tandem::model::v1::{EvaluateRequest, Evaluation};
use tandem_contract::{Call, rpc};
use tandem_types::Fault;

use crate::place::Place;
use crate::{FAILED, NO_NODE, Outcome, fleet, style};

/// By what door.
pub(crate) const DOOR: &str = "cli";

/// Evaluates one model after the other, with the adapter if there is one; one that cannot be evaluated does not keep the
/// others from it.
pub(crate) async fn run(
    names: &[String],
    adapter: Option<&str>,
    suite: Option<&str>,
    as_json: bool,
    place: Place,
) -> Outcome {
    let Some(running) = fleet::here(&place).await? else { return Ok(ExitCode::from(NO_NODE)) };
    let client = fleet::client(&running.plan, &running.node, rpc::models::EVALUATE.path(), &place)?;
    let (mut failed, mut found) = (false, Vec::new());
    // The model of the adapter, where none is named.
    let names = if names.is_empty() { &[String::new()] } else { names };
    for name in names {
        let request = EvaluateRequest {
            idempotency_key: uuid::Uuid::new_v4().as_bytes().to_vec(),
            model: name.clone(),
            suite: suite.unwrap_or_default().to_owned(),
            adapter: adapter.unwrap_or_default().to_owned(),
            ..Default::default()
        };
        let answer = client.unary(rpc::models::EVALUATE, request, &Call::from_door(DOOR)).await;
        let evaluation = answer.and_then(|answer| {
            answer.evaluation.into_option().ok_or_else(|| Fault::internal("the answer has no evaluation"))
        });
        match evaluation {
            Ok(evaluation) if as_json => found.push(in_json(&evaluation)),
            Ok(evaluation) => in_words(&evaluation).iter().for_each(|line| anstream::println!("{line}")),
            Err(fault) => {
                failed = true;
                let problems: Vec<String> =
                    fault.violations.iter().map(|wrong| format!("{} {}", wrong.field, wrong.problem)).collect();
                let what = if problems.is_empty() { fault.message } else { problems.join("; ") };
                let of = if name.is_empty() { adapter.unwrap_or_default() } else { name };
                style::complain(&style::bad("error"), &format!("{of}: {what}"));
            }
        }
    }
    if as_json {
        anstream::println!("{:#}", json!(found));
    }
    Ok(ExitCode::from(if failed { FAILED } else { 0 }))
}

/// A line for the whole, one for each kind of question, and one for each answer that is not as it should be.
fn in_words(evaluation: &Evaluation) -> Vec<String> {
    let count = |passed: usize, all: usize| format!("{passed} of {all}");
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for question in &evaluation.questions {
        let (passed, all) = kinds.entry(&question.kind).or_default();
        *passed += usize::from(question.passed);
        *all += 1;
    }
    let (passed, all) = kinds.values().fold((0, 0), |(p, a), (passed, of)| (p + passed, a + of));
    let mut lines = vec![format!(
        "{}  {} as they should be, {:.0} tokens/s, first token after {}, {} in all",
        style::bold(&what(evaluation)),
        count(passed, all),
        evaluation.tokens_per_second,
        style::span(evaluation.first_token_ms.into()),
        style::span(evaluation.duration_ms.into()),
    )];
    let width = kinds.keys().map(|kind| kind.len()).max().unwrap_or(0);
    lines.extend(kinds.iter().map(|(kind, (passed, all))| format!("  {kind:<width$}  {}", count(*passed, *all))));
    let wrong = evaluation.questions.iter().filter(|question| !question.passed);
    lines.extend(wrong.map(|question| {
        let answer = question.answer.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = answer.chars().take(60).collect();
        let more = if short.len() < answer.len() { "…" } else { "" };
        format!(
            "  {} {}: {}: {}",
            style::bad("✘"),
            question.name,
            question.cause,
            style::dim(&format!("{short}{more}"))
        )
    }));
    lines
}

fn what(evaluation: &Evaluation) -> String {
    match evaluation.adapter.as_str() {
        "" => evaluation.model.clone(),
        adapter => format!("{} + {adapter}", evaluation.model),
    }
}

fn in_json(evaluation: &Evaluation) -> serde_json::Value {
    let questions: Vec<_> = evaluation
        .questions
        .iter()
        .map(|q| json!({"name": q.name, "kind": q.kind, "passed": q.passed, "cause": q.cause, "answer": q.answer}))
        .collect();
    json!({
        "id": evaluation.evaluation_id, "model": evaluation.model, "adapter": evaluation.adapter, "suite": evaluation.suite,
        "suite_sha256": evaluation.suite_sha256, "score": evaluation.score,
        "tokens_per_second": evaluation.tokens_per_second, "first_token_ms": evaluation.first_token_ms,
        "duration_ms": evaluation.duration_ms, "questions": questions,
    })
}

#[cfg(test)]
mod tests {
    use tandem_contract::pb::tandem::model::v1::QuestionResult;

    use super::*;

    #[test]
    fn a_report_names_what_went_wrong() {
        let question = |name: &str, kind: &str, cause: &str| QuestionResult {
            name: name.into(),
            kind: kind.into(),
            passed: cause.is_empty(),
            cause: cause.into(),
            answer: "You never\ntold me.".into(),
            ..Default::default()
        };
        let evaluation = Evaluation {
            model: "m".into(),
            questions: vec![question("name", "recall", "has no `Maria`"), question("sum", "fact", "")],
            tokens_per_second: 71.4,
            first_token_ms: 120,
            duration_ms: 9_500,
            ..Default::default()
        };
        let plain: Vec<String> =
            in_words(&evaluation).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(
            plain,
            [
                "m  1 of 2 as they should be, 71 tokens/s, first token after 120 ms, 9.5 s in all",
                "  fact    1 of 1",
                "  recall  0 of 1",
                "  ✘ name: has no `Maria`: You never told me.",
            ]
        );
        assert_eq!(in_json(&evaluation)["questions"][0]["passed"], false);
        let adapted = Evaluation { adapter: "warm".into(), ..evaluation };
        assert!(in_words(&adapted)[0].contains("m + warm"), "{:?}", in_words(&adapted));
    }
}
