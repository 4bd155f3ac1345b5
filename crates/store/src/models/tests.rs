use std::sync::Arc;

use tandem_types::Code;
use tempfile::TempDir;

use super::*;
use crate::testing::{at, days, key};

type Fresh = (TempDir, Arc<dyn ModelStore>);

fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteModels::open(folder.path().join("models.db")).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn sqlite_keeps_the_promises_of_the_trait() {
    suite(sqlite).await;
}

/// What every [`ModelStore`] promises.
pub(crate) async fn suite(fresh: impl Fn() -> Fresh) {
    registers_and_quarantines(&*fresh().1).await;
    binds_and_rolls_back(&*fresh().1).await;
    publishes_adapters(&*fresh().1).await;
    keeps_the_highest_peak(&*fresh().1).await;
    counts_use_by_day(&*fresh().1).await;
    keeps_evaluations(&*fresh().1).await;
}

fn manifest(name: &str, sha256: &str) -> Manifest {
    Manifest {
        name: name.into(),
        path: format!("/models/{name}.gguf"),
        file_bytes: 5_000_000_000,
        sha256: sha256.into(),
        format: "gguf".into(),
        body: "{}".into(),
        base: None,
    }
}

fn role(name: &str) -> Role {
    Role::new(name).unwrap()
}

async fn registers_and_quarantines(store: &dyn ModelStore) {
    let smol = store.register(key(1), manifest("smol", "a"), at(0)).await.unwrap();
    assert_eq!(store.register(key(1), manifest("smol", "a"), at(1)).await.unwrap(), smol);
    assert_eq!(store.register(key(1), manifest("smol", "b"), at(1)).await.unwrap_err().code, Code::Conflict);
    store.quarantine("smol", "its file changed").await.unwrap();
    assert_eq!(store.model("smol").await.unwrap().quarantined.as_deref(), Some("its file changed"));
    let newer = store.register(key(2), manifest("smol", "b"), at(2)).await.unwrap();
    assert_eq!(newer, Model { manifest: manifest("smol", "b"), quarantined: None, registered: at(2) });
    store.register(key(3), manifest("big", "c"), at(3)).await.unwrap();
    let names: Vec<String> = store.models().await.unwrap().into_iter().map(|m| m.manifest.name).collect();
    assert_eq!(names, ["big", "smol"]);
    assert_eq!(store.model("none").await.unwrap_err().code, Code::NotFound);
    assert_eq!(store.quarantine("none", "x").await.unwrap_err().code, Code::NotFound);
}

async fn binds_and_rolls_back(store: &dyn ModelStore) {
    let (fast, tiny) = (role("llm.fast"), role("llm.tiny"));
    for (n, name) in [(1, "a"), (2, "b"), (3, "c")] {
        store.register(key(n), manifest(name, name), at(0)).await.unwrap();
    }
    let bind = async |n, role: &Role, model: &str| {
        store.bind(key(n), role.clone(), model.into(), None, "asked".into(), at(n as i64)).await
    };
    assert_eq!(bind(10, &fast, "none").await.unwrap_err().code, Code::NotFound);
    let a = bind(11, &fast, "a").await.unwrap();
    let again = store.bind(key(11), fast.clone(), "a".into(), None, "asked".into(), at(99)).await.unwrap();
    assert_eq!(again, a);
    assert_eq!(store.roll_back(key(12), fast.clone(), at(12)).await.unwrap_err().code, Code::FailedPrecondition);
    let b = bind(13, &fast, "b").await.unwrap();
    let c = bind(14, &fast, "c").await.unwrap();
    let t = bind(15, &tiny, "a").await.unwrap();
    assert_eq!(store.bindings().await.unwrap(), [c, t.clone()]);
    assert_eq!(store.roll_back(key(16), fast.clone(), at(16)).await.unwrap(), b);
    assert_eq!(store.roll_back(key(16), fast.clone(), at(17)).await.unwrap(), b);
    assert_eq!(store.roll_back(key(18), fast.clone(), at(18)).await.unwrap(), a);
    assert_eq!(store.bindings().await.unwrap(), [a, t]);
    let history = store.history(&fast, 9).await.unwrap();
    let brief: Vec<_> = history.iter().map(|b| (b.model.as_str(), b.undone)).collect();
    assert_eq!(brief, [("c", Some(at(16))), ("b", Some(at(18))), ("a", None)]);
    assert_eq!(store.history(&fast, 1).await.unwrap().len(), 1);
}

async fn publishes_adapters(store: &dyn ModelStore) {
    let fast = role("llm.fast");
    store.register(key(1), manifest("a", "a"), at(0)).await.unwrap();
    for (n, name) in [(2, "x"), (3, "y")] {
        let adapter = Manifest { base: Some("a".into()), ..manifest(name, name) };
        assert_eq!(store.register(key(n), adapter.clone(), at(0)).await.unwrap().manifest, adapter);
        assert_eq!(store.model(name).await.unwrap().manifest, adapter);
    }
    let one = |adapter: &str, percent, others: Option<&str>| {
        Some(Published { adapter: adapter.into(), percent, others: others.map(str::to_owned) })
    };
    let bind =
        async |n, adapter| store.bind(key(n), fast.clone(), "a".into(), adapter, "asked".into(), at(n as i64)).await;
    assert_eq!(bind(10, one("none", 5, None)).await.unwrap_err().code, Code::NotFound);
    let plain = bind(11, None).await.unwrap();
    bind(12, one("x", 10, None)).await.unwrap();
    let grown = bind(13, one("x", 100, None)).await.unwrap();
    let second = bind(14, one("y", 20, Some("x"))).await.unwrap();
    assert_eq!(second.adapter, one("y", 20, Some("x")));
    assert_eq!(bind(14, one("y", 20, Some("x"))).await.unwrap(), second);
    assert_eq!(bind(14, one("y", 21, Some("x"))).await.unwrap_err().code, Code::Conflict);
    assert_eq!(store.bindings().await.unwrap(), [second]);
    for n in [20, 20] {
        assert_eq!(store.roll_back(key(n), fast.clone(), at(20)).await.unwrap(), grown);
    }
    assert_eq!(store.roll_back(key(21), fast.clone(), at(21)).await.unwrap(), plain, "the canary of 10 % goes too");
    assert_eq!(store.roll_back(key(22), fast.clone(), at(22)).await.unwrap_err().code, Code::FailedPrecondition);
    // A model bound twice without an adapter is two bindings.
    let again = bind(23, None).await.unwrap();
    bind(24, None).await.unwrap();
    assert_eq!(store.roll_back(key(25), fast.clone(), at(25)).await.unwrap(), again);
}

#[tokio::test]
async fn what_was_kept_before_there_were_adapters_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("models.db");
    drop(crate::db::Db::open(&path, &super::sqlite::MIGRATIONS[..2]).unwrap());
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(
        "INSERT INTO models VALUES ('smol', '/models/smol.gguf', 5000000000, 'a', 'gguf', '{}', NULL, 7);
         INSERT INTO bindings(role, model, reason, since) VALUES ('llm.fast', 'smol', 'asked', 8);
         INSERT INTO evaluations VALUES ('e', 'smol', 'chat', 9, '{}');",
    )
    .unwrap();
    drop(old);
    let store = SqliteModels::open(path).unwrap();
    assert_eq!(store.model("smol").await.unwrap().manifest, manifest("smol", "a"));
    let [binding] = &store.bindings().await.unwrap()[..] else { panic!("one binding") };
    assert_eq!((binding.model.as_str(), &binding.adapter), ("smol", &None));
    let kept = store.last_evaluation("smol", None).await.unwrap().unwrap();
    assert_eq!((kept.id.as_str(), kept.adapter), ("e", None));
    // A write that is sent again after an update is still the same write.
    let json = r#"{"name":"smol","path":"/models/smol.gguf","file_bytes":5000000000,"sha256":"a","format":"gguf","body":"{}"}"#;
    assert_eq!(serde_json::to_string(&manifest("smol", "a")).unwrap(), json);
    assert_eq!(serde_json::from_str::<Manifest>(json).unwrap(), manifest("smol", "a"));
}

async fn keeps_the_highest_peak(store: &dyn ModelStore) {
    let of = Circumstances {
        model: "smol".into(),
        context: 4_096,
        slots: 4,
        engine: "llama.cpp b6000".into(),
        device: "cpu".into(),
    };
    assert_eq!(store.measurement(of.clone()).await.unwrap(), None);
    for (peak, seconds) in [(100, 0), (300, 1), (200, 2)] {
        store.measured(of.clone(), peak, at(seconds)).await.unwrap();
    }
    let expected = Measured { peak_bytes: 300, count: 3, at: at(2) };
    assert_eq!(store.measurement(of.clone()).await.unwrap(), Some(expected));
    assert_eq!(store.measurement(Circumstances { slots: 5, ..of }).await.unwrap(), None);
}

async fn keeps_evaluations(store: &dyn ModelStore) {
    let one = |id: &str, seconds| Evaluation {
        id: id.into(),
        model: "smol".into(),
        adapter: None,
        suite: "chat".into(),
        started: at(seconds),
        body: format!(r#"{{"n":{seconds}}}"#),
    };
    assert_eq!(store.last_evaluation("smol", None).await.unwrap(), None);
    for (id, seconds) in [("a", 5), ("b", 3), ("a", 9)] {
        store.evaluated(one(id, seconds)).await.unwrap();
    }
    assert_eq!(store.evaluation("a").await.unwrap(), Some(one("a", 5)));
    let with = Evaluation { adapter: Some("x".into()), ..one("d", 9) };
    store.evaluated(with.clone()).await.unwrap();
    assert_eq!(store.last_evaluation("smol", None).await.unwrap(), Some(one("a", 5)));
    assert_eq!(store.last_evaluation("smol", Some("x")).await.unwrap(), Some(with));
    assert_eq!(store.last_evaluation("smol", Some("y")).await.unwrap(), None);
    assert_eq!(store.evaluation("c").await.unwrap(), None);
    assert_eq!(store.last_evaluation("big", None).await.unwrap(), None);
}

async fn counts_use_by_day(store: &dyn ModelStore) {
    let one = |role_name: &str, ok| Use {
        model: "smol".into(),
        role: role(role_name),
        prompt_tokens: 100,
        completion_tokens: 10,
        busy: Duration::from_millis(500),
        ok,
    };
    for (n, role, ok, when) in [
        (1, "llm.fast", true, at(0)),
        (1, "llm.fast", true, at(1)),
        (2, "llm.fast", false, at(0)),
        (3, "llm.fast", true, at(days(1))),
        (4, "llm.tiny", true, at(days(1))),
    ] {
        store.note_use(key(n), one(role, ok), when).await.unwrap();
    }
    let other = store.note_use(key(1), one("llm.tiny", true), at(2)).await.unwrap_err();
    assert_eq!(other.code, Code::Conflict);
    let uses = store.uses(at(0)).await.unwrap();
    let expected = Uses {
        model: "smol".into(),
        role: role("llm.fast"),
        tickets: 3,
        prompt_tokens: 300,
        completion_tokens: 30,
        busy: Duration::from_millis(1_500),
        failures: 1,
    };
    assert_eq!((uses.len(), &uses[0]), (2, &expected));
    assert_eq!(store.uses(at(days(1))).await.unwrap()[0].tickets, 1);
    assert_eq!(store.prune(at(days(31))).await.unwrap(), 1);
    assert_eq!(store.uses(at(0)).await.unwrap()[0].tickets, 1);
}
