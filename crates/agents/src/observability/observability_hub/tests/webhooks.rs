//! Alerts are told to addresses outside: once, in order, signed, and until they have them.

use std::collections::VecDeque;

use ::http::HeaderMap;
use axum::routing::post;
use tandem_store::errors::Severity;

use super::super::logic::webhook::signature;
use super::errors_and_peers::{error, patient, report};
use super::*;

/// An address that takes alerts and answers as it is told; 204 when it is told nothing.
struct Receiver {
    at: String,
    heard: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
}

impl Receiver {
    async fn start() -> Self {
        let (heard, answers) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<VecDeque<_>>>::default());
        let (keep, say) = (heard.clone(), answers.clone());
        let take = move |headers: HeaderMap, body: String| {
            keep.lock().unwrap().push((headers, body));
            let answer = say.lock().unwrap().pop_front().unwrap_or(StatusCode::NO_CONTENT);
            async move { answer }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}/hooks/secret-path", listener.local_addr().unwrap());
        let app = Router::new().route("/hooks/secret-path", post(take));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { at, heard, answers }
    }

    fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect()
    }

    fn header(&self, n: usize, name: &str) -> String {
        self.heard.lock().unwrap()[n].0.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

async fn hub(toy: &Toy, mut settings: Value, webhooks: Value) -> Running {
    settings["webhooks"] = webhooks;
    rig(toy, settings).await
}

/// A flood of errors of the agent, which is a critical alert.
async fn flood(rig: &Running, key: u32) {
    report(rig, key, vec![error(6)]).await.unwrap();
}

#[tokio::test]
async fn an_alert_is_told_once_for_each_state_and_signed() {
    let (toy, receiver) = (Toy::start(Act::Break).await, Receiver::start().await);
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "open sesame\n").unwrap();
    let rig =
        hub(&toy, patient(), json!([{ "url": receiver.at, "min_severity": "critical", "secret_file": secret }])).await;
    flood(&rig, 1).await;
    flood(&rig, 2).await;
    for _ in 0..2 {
        rig.reconcile("webhooks").await.unwrap();
    }
    let [told] = &receiver.heard()[..] else { panic!("{:?}", receiver.heard()) };
    let raised = alerts(&rig, true).await.remove(0);
    assert_eq!(
        (told["alert_id"].as_str(), told["state"].as_str(), told["severity"].as_str(), told["node"].as_str()),
        (Some(raised.alert_id.as_str()), Some("raised"), Some("critical"), Some("solo"))
    );
    assert_eq!((told["kind"].as_str(), told["since_us"].as_i64()), (Some("error_flood"), Some(raised.first_us)));
    assert_eq!(receiver.header(0, "idempotency-key"), format!("{}-raised", raised.alert_id));
    assert_eq!(receiver.header(0, "content-type"), "application/json");
    let body = receiver.heard.lock().unwrap()[0].1.clone();
    assert_eq!(receiver.header(0, "tandem-signature"), signature(b"open sesame", body.as_bytes()));

    // The flood ends, and the alert a minute later.
    rig.clock.advance(Duration::from_secs(61));
    rig.reconcile("calm").await.unwrap();
    rig.reconcile("webhooks").await.unwrap();
    assert_eq!(receiver.heard().len(), 1);
    rig.clock.advance(Duration::from_secs(60));
    rig.reconcile("calm").await.unwrap();
    rig.reconcile("webhooks").await.unwrap();
    let told = receiver.heard();
    assert_eq!((told.len(), told[1]["state"].as_str()), (2, Some("cleared")));
    assert_eq!(told[1]["alert_id"], told[0]["alert_id"]);
}

#[tokio::test]
async fn what_is_not_taken_is_tried_again_in_order_and_outlives_a_restart() {
    let (toy, receiver) = (Toy::start(Act::Break).await, Receiver::start().await);
    *receiver.answers.lock().unwrap() = [StatusCode::INTERNAL_SERVER_ERROR; 3].into();
    let mut rig = hub(&toy, patient(), json!([{ "url": receiver.at }])).await;
    flood(&rig, 1).await;
    rig.reconcile("webhooks").await.unwrap();
    rig.reconcile("webhooks").await.unwrap();
    assert_eq!(receiver.heard().len(), 1, "nothing is tried before its time");
    for (pause, tries) in [(4, 1), (1, 2), (10, 3)] {
        rig.clock.advance(Duration::from_secs(pause));
        rig.reconcile("webhooks").await.unwrap();
        assert_eq!(receiver.heard().len(), tries);
    }
    assert_eq!(rig.health().state, State::Degraded);
    let cause = rig.health().cause;
    assert!(cause.contains("alerts do not reach http://127.0.0.1") && !cause.contains("secret-path"), "{cause}");
    // The restart ends the flood, which only its former life knew; that waits behind what is older.
    rig.restart().await;
    rig.reconcile("webhooks").await.unwrap();
    assert_eq!(receiver.heard().len(), 3);
    rig.clock.advance(Duration::from_secs(20));
    rig.reconcile("webhooks").await.unwrap();
    let states: Vec<Value> = receiver.heard().iter().map(|told| told["state"].clone()).collect();
    assert_eq!(states, ["raised", "raised", "raised", "raised", "cleared"]);
    let keys: Vec<String> = (0..4).map(|n| receiver.header(n, "idempotency-key")).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(receiver.header(0, "tandem-signature"), "", "there is no secret");
    assert!(!rig.health().cause.contains("alerts do not reach"), "{}", rig.health().cause);
}

#[tokio::test]
async fn an_address_that_is_new_hears_of_what_stands_and_of_what_is_bad_enough() {
    let (toy, all, few) = (Toy::start(Act::Say(State::Ready)).await, Receiver::start().await, Receiver::start().await);
    let hooks = json!([{ "url": all.at, "min_severity": "info" }, { "url": few.at, "min_severity": "critical" }]);
    let rig = hub(&toy, quick(), hooks).await;
    until(&mut watch(&rig).await, State::Ready).await;
    let wide: String = (0..2_001).map(|n| format!("wide{{n=\"{n}\"}} 1\n")).collect();
    *toy.metrics.lock().unwrap() = wide;
    rig.reconcile("scrape").await.unwrap();
    rig.reconcile("webhooks").await.unwrap();
    let told = all.heard();
    assert_eq!((told.len(), told[0]["severity"].as_str()), (1, Some(Severity::Warning.as_str())));
    assert_eq!((told[0]["subject"].as_str(), &told[0]["agent"]), (Some(GROUP), &Value::Null));
    assert_eq!(few.heard(), Vec::<Value>::new());
}

#[tokio::test]
async fn everything_that_is_wrong_with_the_addresses_is_said_at_once() {
    let hooks = json!([
        { "url": "ftp://x/y" }, { "url": "http://127.0.0.1:1/a" }, { "url": "http://127.0.0.1:1/a" },
        { "url": "https://example.org/", "secret_file": "/nowhere/at/all" },
    ]);
    let Err(fault) = Rig::new(&DEF).settings(json!({ "webhooks": hooks })).try_start().await else {
        panic!("it started");
    };
    let named: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["webhooks[0].url", "webhooks[2].url", "webhooks[3].secret_file"], "{fault}");
}
