//! Who may come in.

use tandem_contract::rpc::sessions;
use tandem_types::{Code, reason};

use super::*;

const TOKEN: &str = "0123456789abcdef0123";

fn token_file() -> (tempfile::TempDir, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    (folder, json!({"token_file": file}))
}

async fn refused(settings: serde_json::Value) -> Fault {
    match Rig::new(&DEF).settings(settings).try_start().await {
        Ok(_) => panic!("the door opened"),
        Err(fault) => fault,
    }
}

#[tokio::test]
async fn beyond_loopback_a_token_is_wanted() {
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let fault = refused(json!({"listen": listen})).await;
        assert_eq!(
            (fault.code, fault.reason.as_str()),
            (Code::FailedPrecondition, reason::SETTING_MISSING),
            "{listen}"
        );
        assert!(fault.message.contains("token_file"), "{fault}");
    }
    let (_folder, mut settings) = token_file();
    settings["listen"] = json!("0.0.0.0:0");
    let house = House::start(Rig::new(&DEF).settings(settings)).await;
    assert!(house.address.ip().is_unspecified());
}

#[tokio::test]
async fn a_taken_port_and_a_foreign_address_are_said() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let fault = refused(json!({"listen": address})).await;
    assert_eq!(fault.reason, reason::PORT_TAKEN);
    assert!(fault.message.contains(&address.to_string()), "{fault}");

    let (_folder, mut settings) = token_file();
    settings["listen"] = json!("192.0.2.1:0");
    assert_eq!(refused(settings).await.reason, reason::BAD_ADDRESS);

    let fault = refused(json!({"token_file": "/nowhere/token"})).await;
    assert!(fault.message.contains("/nowhere/token"), "{fault}");
}

#[tokio::test]
async fn requests_meant_for_others_are_refused_everywhere() {
    let house = House::with(&Coordinator::new(vec![]), json!({})).await;
    for (method, path) in
        [("GET", "/"), ("GET", "/v1/models"), ("POST", sessions::LIST_SESSIONS.path()), ("POST", "/api/login")]
    {
        for headers in [
            vec![("host", "evil.example:8280"), JSON],
            vec![("origin", "http://evil.example"), JSON],
            vec![("origin", "null"), JSON],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), JSON],
        ] {
            let response = house.send(method, path, &headers, "{}").await;
            assert_eq!(response.status(), 403, "{method} {path} {headers:?}");
            assert!(header(&response, "access-control-allow-origin").is_empty());
        }
    }
    assert_eq!(house.send("GET", "/", &[("host", "mainpc.lan")], "").await.status(), 200);
    // A preflight gets no leave.
    let host = house.address.to_string();
    let preflight = house.send("OPTIONS", "/v1/chat/completions", &[("origin", &format!("http://{host}"))], "").await;
    assert_eq!((preflight.status().as_u16(), header(&preflight, "access-control-allow-methods")), (405, ""));
}

#[tokio::test]
async fn with_a_token_everything_but_the_page_wants_it() {
    let (_folder, settings) = token_file();
    let coordinator = Coordinator::new(vec![accepted(), end("Hello.")]);
    let house = House::with(&coordinator, settings).await;
    assert_eq!(house.send("GET", "/", &[], "").await.status(), 200);
    let ask = r#"{"model":"tandem","messages":[{"role":"user","content":"Hi"}]}"#;
    for (headers, status) in [
        (vec![JSON], 401),
        (vec![JSON, ("authorization", "Bearer wrong")], 401),
        (vec![JSON, ("authorization", "Bearer 0123456789abcdef0123")], 200),
    ] {
        let response = house.send("POST", "/v1/chat/completions", &headers, ask).await;
        assert_eq!(response.status().as_u16(), status, "{headers:?}");
        if status == 401 {
            assert_eq!(value(response).await["error"]["code"], "invalid_api_key");
        }
    }
    // The page hears it in its own protocol.
    let response = house.send("POST", sessions::LIST_SESSIONS.path(), &[JSON], "{}").await;
    assert_eq!(response.status(), 401);
    assert_eq!(value(response).await["code"], "unauthenticated");
    for path in ["/v1/nothing", "/api/nothing", "/api/logout", "/tandem.model.v1.Models/Acquire"] {
        assert_eq!(house.send("POST", path, &[JSON], "{}").await.status(), 401, "{path}");
    }
}

/// The cookies of an answer as `name=value`, and everything it said about them.
fn cookies(response: &Response<Incoming>) -> (Vec<String>, String) {
    let lines: Vec<&str> = response.headers().get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
    (lines.iter().map(|line| line.split(';').next().unwrap().to_owned()).collect(), lines.join("\n"))
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    let (_folder, settings) = token_file();
    let coordinator = Coordinator::new(vec![]);
    let house = House::with(&coordinator, settings).await;
    let cancel = coordinator::CANCEL.path();
    for body in ["", "{}", r#"{"token":7}"#, r#"{"token":"x","more":1}"#] {
        assert_eq!(house.send("POST", "/api/login", &[JSON], body).await.status(), 400, "{body}");
    }
    assert_eq!(house.send("POST", "/api/login", &[JSON], r#"{"token":"wrong"}"#).await.status(), 401);
    let response = house.send("POST", "/api/login", &[JSON], &json!({"token": TOKEN}).to_string()).await;
    assert!(response.status().is_success());
    let (pairs, lines) = cookies(&response);
    let (sealed, csrf) = (lines.lines().next().unwrap(), lines.lines().nth(1).unwrap());
    assert!(sealed.starts_with("tandem_session=") && sealed.contains("HttpOnly") && sealed.contains("SameSite=Strict"));
    assert!(csrf.starts_with("tandem_csrf=") && !csrf.contains("HttpOnly") && csrf.contains("SameSite=Strict"));

    let jar = pairs.join("; ");
    let csrf = pairs[1].strip_prefix("tandem_csrf=").unwrap();
    for (headers, status) in [
        (vec![JSON, ("cookie", jar.as_str())], 403),
        (vec![JSON, ("cookie", &jar), ("x-tandem-csrf", "guess")], 403),
        (vec![JSON, ("cookie", &jar), ("x-tandem-csrf", csrf)], 200),
        (vec![JSON, ("cookie", &pairs[1]), ("x-tandem-csrf", csrf)], 401),
    ] {
        assert_eq!(house.send("POST", cancel, &headers, "{}").await.status().as_u16(), status, "{headers:?}");
    }
    let headers = [("cookie", jar.as_str()), ("x-tandem-csrf", csrf)];
    let (_, lines) = cookies(&house.send("POST", "/api/logout", &headers, "").await);
    assert_eq!(lines.matches("Max-Age=0").count(), 2, "{lines}");
}

#[tokio::test]
async fn a_session_outlives_a_restart_and_not_its_time() {
    let (_folder, settings) = token_file();
    let mut house = House::with(&Coordinator::new(vec![]), settings).await;
    let response = house.send("POST", "/api/login", &[JSON], &json!({"token": TOKEN}).to_string()).await;
    let jar = cookies(&response).0.join("; ");
    house.rig.restart().await;
    house.address = serde_json::from_value(house.rig.events()[1].payload.clone()).unwrap();
    // 503: let in, and there is no keeper of models in this fleet.
    assert_eq!(house.send("GET", "/v1/models", &[("cookie", &jar)], "").await.status(), 503);
    house.rig.clock.advance(crate::access::SESSION_LIFE);
    assert_eq!(house.send("GET", "/v1/models", &[("cookie", &jar)], "").await.status(), 401);
}

#[tokio::test]
async fn whoever_guesses_has_to_wait() {
    let (_folder, settings) = token_file();
    let house = House::with(&Coordinator::new(vec![]), settings).await;
    for _ in 0..10 {
        assert_eq!(house.send("POST", "/api/login", &[JSON], r#"{"token":"wrong"}"#).await.status(), 401);
    }
    let right = json!({"token": TOKEN}).to_string();
    let response = house.send("POST", "/api/login", &[JSON], &right).await;
    assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, "61"));
    house.rig.clock.advance(Duration::from_mins(1));
    assert!(house.send("POST", "/api/login", &[JSON], &right).await.status().is_success());
}
