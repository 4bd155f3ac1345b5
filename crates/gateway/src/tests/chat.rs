//! Chat completions as a client sees them.

use tandem_contract::Service;
use tandem_contract::pb::tandem::model::v1::{ListModelsResponse, ListRolesResponse, RoleInfo};
use tandem_contract::rpc::models;
use tandem_testkit::Rig;
use tandem_types::{Code, Fault, reason};

use super::*;

const ASK: &str = r#"{"model":"tandem","messages":[{"role":"user","content":"Hi"}],"seed":7}"#;
const STREAM: &str = r#"{"model":"tandem","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hi"}]}"#;

/// Where the rig's clock stands.
const CREATED: i64 = 1_790_000_000;

/// What a stream carries: one JSON value an event, and the word at its end.
fn events(told: &str) -> Vec<serde_json::Value> {
    let events = told.strip_suffix("\n\n").expect("ends after an event").split("\n\n");
    let data = events.map(|event| event.strip_prefix("data: ").expect("one line of data an event"));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data.replace("[DONE]", "done")))).collect()
}

fn chunk(model: &str, choices: serde_json::Value) -> serde_json::Value {
    json!({"id": format!("chatcmpl-{TURN}"), "object": "chat.completion.chunk", "created": CREATED, "model": model,
        "system_fingerprint": null, "choices": choices, "usage": null})
}

fn choice(delta: serde_json::Value, finish_reason: Option<&str>) -> serde_json::Value {
    json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}])
}

#[tokio::test]
async fn a_whole_answer() {
    let coordinator = Coordinator::new(vec![accepted(), queued(1), delta("Hel"), delta("lo."), end("Hello.")]);
    let house = House::with(&coordinator, json!({})).await;
    let trace = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let response = house.send("POST", "/v1/chat/completions", &[JSON, trace], ASK).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-request-id")), (200, TURN));
    let answer = value(response).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello.");
    assert_eq!((&answer["id"], &answer["model"]), (&json!(format!("chatcmpl-{TURN}")), &json!("smol")));
    assert_eq!(answer["usage"]["total_tokens"], 7);

    let asked = coordinator.wait(|asked| asked.submitted.first().cloned()).await;
    assert_eq!((asked.user_id.as_str(), asked.channel.as_str(), asked.model.as_str()), ("owner", "openai", ""));
    assert_eq!((asked.messages[0].role.as_str(), asked.messages[0].content.as_str()), ("user", "Hi"));
    assert_eq!((asked.options.as_option().unwrap().seed, asked.idempotency_key.len()), (Some(7), 16));
    assert!(asked.session_id.is_empty() && asked.text.is_empty());
    let trace = coordinator.wait(|asked| asked.traces.first().copied()).await;
    assert_eq!(trace.map(|trace| trace.trace.to_string()).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
}

#[tokio::test]
async fn a_stream_is_exactly_what_the_official_clients_expect() {
    let coordinator = Coordinator::new(vec![accepted(), queued(1), delta("Hel"), delta("lo."), end("Hello.")]);
    let house = House::with(&coordinator, json!({})).await;
    let response = house.chat(STREAM).await;
    assert_eq!(header(&response, "content-type"), "text/event-stream; charset=utf-8");
    let mut last = chunk("smol", json!([]));
    last["usage"] = json!({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(
        events(&text(response).await),
        [
            chunk("tandem", choice(json!({"role": "assistant", "content": "", "refusal": null}), None)),
            chunk("tandem", choice(json!({"content": "Hel"}), None)),
            chunk("tandem", choice(json!({"content": "lo."}), None)),
            chunk("smol", choice(json!({}), Some("stop"))),
            last,
            json!("done"),
        ]
    );
}

#[tokio::test]
async fn pieces_come_as_they_are_written() {
    let coordinator = Coordinator::new(vec![accepted(), delta("Hel"), Step::Gate, end("Hello.")]);
    let house = House::with(&coordinator, json!({})).await;
    let mut body = house.chat(STREAM).await.into_body();
    let first = piece(&mut body).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("Hel"), "the piece comes before the end is known");
    coordinator.gate.send_replace(true);
    let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(rest.contains("\"content\":\"lo.\"") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
}

#[tokio::test]
async fn who_waits_in_line_gets_signs_of_life() {
    let coordinator = Coordinator::new(vec![accepted(), queued(3), Step::Gate, end("Hello.")]);
    let house = House::with(&coordinator, json!({"keep_alive_ms": 1})).await;
    let mut body = house.chat(STREAM).await.into_body();
    loop {
        let sign = piece(&mut body).await.unwrap().unwrap();
        assert!(sign.starts_with(b": "), "{sign:?}");
        if sign == ": queued, 3 before it\n\n" {
            break;
        }
    }
    coordinator.gate.send_replace(true);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&rest).contains("\"content\":\"Hello.\""));
}

#[tokio::test]
async fn an_early_error_has_a_status_of_its_own() {
    let too_long = Fault::new(Code::InvalidArgument, reason::CONTEXT_LENGTH, "the prompt has 9000 tokens; 4096 fit");
    let full = Fault::new(Code::ResourceExhausted, reason::QUEUE_FULL, "full").retry_after(Duration::from_secs(2));
    for (fault, status, code) in [
        (too_long, 400, "context_length_exceeded"),
        (full, 429, "rate_limit_exceeded"),
        (Fault::no_model("llm.fast"), 503, "no_model"),
    ] {
        let said = Step::Say(tandem_contract::error_info(&fault).into());
        for (steps, turn_id) in [(vec![accepted(), said], TURN), (vec![Step::Fail(fault.clone())], "")] {
            let house = House::with(&Coordinator::new(steps), json!({})).await;
            for body in [ASK, STREAM] {
                let response = house.chat(body).await;
                assert_eq!(
                    (response.status().as_u16(), header(&response, "x-request-id")),
                    (status, turn_id),
                    "{code}"
                );
                let error = &value(response).await["error"];
                assert_eq!((&error["code"], &error["message"]), (&json!(code), &json!(fault.message)));
            }
        }
    }
}

#[tokio::test]
async fn a_late_error_ends_the_stream_as_an_event() {
    let lost = Fault::unavailable(reason::ENGINE_LOST, "the engine ended");
    let house = House::with(&Coordinator::new(vec![accepted(), delta("Hel"), Step::Fail(lost)]), json!({})).await;
    let told = text(house.chat(STREAM).await).await;
    assert_eq!(events(&told).last().unwrap()["error"]["code"], "engine_lost");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_turn() {
    for body in [ASK, STREAM] {
        let coordinator = Coordinator::new(vec![accepted(), delta("Hel"), Step::Hang]);
        let house = House::with(&coordinator, json!({})).await;
        let asking = house.chat(body);
        tokio::select! {
            response = asking => drop(response),
            () = coordinator.wait(|asked| (!asked.submitted.is_empty()).then_some(())) => {}
        }
        let cancelled = coordinator.wait(|asked| asked.cancelled.first().cloned()).await;
        assert_eq!((cancelled.turn_id.as_str(), cancelled.user_id.as_str()), (TURN, "owner"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_its_turn_has_an_id_ends_it_too() {
    let coordinator = Coordinator::new(vec![Step::Gate, accepted(), Step::Hang]);
    let house = House::with(&coordinator, json!({})).await;
    tokio::select! {
        response = house.chat(ASK) => panic!("answered {}", response.status()),
        () = coordinator.wait(|asked| (!asked.submitted.is_empty()).then_some(())) => {}
    }
    coordinator.gate.send_replace(true);
    coordinator.wait(|asked| asked.cancelled.first().cloned()).await;
}

#[tokio::test]
async fn an_answer_that_ended_is_not_cancelled() {
    let coordinator = Coordinator::new(vec![accepted(), end("Hello.")]);
    let house = House::with(&coordinator, json!({})).await;
    text(house.chat(STREAM).await).await;
    house.close().await;
    assert_eq!(coordinator.wait(|asked| Some(asked.cancelled.len())).await, 0);
}

#[tokio::test]
async fn a_lost_line_is_found_again() {
    let lost = Fault::unavailable(reason::PEER_AWAY, "the connection broke");
    let coordinator = Coordinator::new(vec![accepted(), delta("Hel"), Step::Fail(lost)])
        .then_resume(vec![delta("lo."), end("Hello.")]);
    let house = House::with(&coordinator, json!({})).await;
    let told = text(house.chat(STREAM).await).await;
    assert!(
        told.contains("\"content\":\"Hel\"") && told.contains("\"content\":\"lo.\"") && told.ends_with("[DONE]\n\n")
    );
    let resumed = coordinator.wait(|asked| asked.resumed.first().cloned()).await;
    assert_eq!((resumed.turn_id.as_str(), resumed.after_number), (TURN, 2));
}

#[tokio::test]
async fn closing_ends_streams_with_an_event_and_frees_the_port() {
    let coordinator = Coordinator::new(vec![accepted(), delta("Hel"), Step::Hang]);
    let house = House::with(&coordinator, json!({})).await;
    let mut body = house.chat(STREAM).await.into_body();
    piece(&mut body).await.unwrap().unwrap();
    let (rest, ()) = tokio::join!(body.collect(), house.close());
    let rest = rest.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&rest).contains("\"code\":\"draining\""), "{rest:?}");
    coordinator.wait(|asked| asked.cancelled.first().cloned()).await;
    tokio::net::TcpListener::bind(house.address).await.unwrap();
}

fn manager() -> Service {
    Service::new()
        .unary(models::LIST_ROLES, |_call, _request| async {
            let role = RoleInfo { role: "llm.fast".into(), model: "smol".into(), ..Default::default() };
            Ok(ListRolesResponse { roles: vec![role], ..Default::default() })
        })
        .unary(models::LIST_MODELS, |_call, _request| async { Ok(ListModelsResponse::default()) })
}

#[tokio::test]
async fn models_are_asked_for_by_name() {
    let coordinator = Coordinator::new(vec![accepted(), end("Hello.")]);
    let rig = Rig::new(&DEF).peer("RequestCoordinator", coordinator.service()).peer("ModelManagerSuite", manager());
    let house = House::start(rig).await;
    let list = value(house.send("GET", "/v1/models", &[], "").await).await;
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!((&list["object"], ids), (&json!("list"), vec![json!("tandem"), json!("llm.fast")]));
    assert_eq!(value(house.send("GET", "/v1/models/llm.fast", &[], "").await).await["owned_by"], "tandem");

    let missing = house.send("GET", "/v1/models/gpt-4o", &[], "").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(value(missing).await["error"]["code"], "model_not_found");
    let missing = house.chat(&ASK.replace("tandem", "gpt-4o")).await;
    assert_eq!(missing.status(), 404);
    assert_eq!(house.chat(&ASK.replace("tandem", "llm.fast")).await.status(), 200);
    assert_eq!(coordinator.wait(|asked| asked.submitted.first().cloned()).await.model, "llm.fast");
}

#[tokio::test]
async fn without_a_keeper_of_models_that_is_said() {
    let house = House::with(&Coordinator::new(vec![]), json!({})).await;
    for response in [house.send("GET", "/v1/models", &[], "").await, house.chat(&ASK.replace("tandem", "x")).await] {
        assert_eq!(response.status(), 503);
        assert_eq!(value(response).await["error"]["type"], "server_error");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_their_shape() {
    let house = House::with(&Coordinator::new(vec![]), json!({})).await;
    for (method, path, headers, body, status) in [
        ("POST", "/v1/embeddings", vec![JSON], "{}", 404),
        ("GET", "/v1/chat/completions", vec![], "", 405),
        ("POST", "/v1/models", vec![JSON], "{}", 405),
        ("POST", "/v1/chat/completions", vec![("content-type", "text/plain")], ASK, 415),
        ("POST", "/v1/chat/completions", vec![JSON], "{", 400),
    ] {
        let response = house.send(method, path, &headers, body).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert!(value(response).await["error"]["message"].is_string(), "{method} {path}");
    }
    let large = format!("\"{}\"", "x".repeat(tandem_contract::MAX_REQUEST_BYTES));
    let response = house.chat(&large).await;
    assert_eq!(response.status(), 413);
    assert_eq!(value(response).await["error"]["code"], "too_large");
}
