//! Adapters on a real model: SmolLM2-135M, from `TANDEM_TEST_MODEL` or the model store, with adapters that the tests write.
//! The tests fail with the way to get the model when it is not there.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod held;

use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt};
use tandem_engine::catalogue::Store;
use tandem_engine::gguf::{AdapterInfo, GgufInfo, sample_adapter};
use tandem_engine::{
    ADAPTER_UNFIT, ChatMessage, ChatRole, Finished, Lease, NO_ADAPTER, Prompt, Sampling, TextEvent, TextGenerator,
    TextRequest, conformance,
};
use tandem_engine_llama::{LlamaGenerator, LlamaOptions};
use tandem_types::Code;
use tempfile::TempDir;

use held::Held;

fn model_file() -> PathBuf {
    if let Some(path) = std::env::var_os("TANDEM_TEST_MODEL") {
        return path.into();
    }
    Store::open().and_then(|store| store.path_of("smollm2-135m")).unwrap_or_else(|fault| {
        panic!("this test runs a real model: {fault}; `tandem models pull smollm2-135m`, or set TANDEM_TEST_MODEL")
    })
}

/// Puts an adapter for the model into a folder.
fn put(folder: &Path, name: &str, seed: u64) {
    let model = GgufInfo::read(&model_file()).unwrap();
    let path = folder.join(format!("{name}.gguf"));
    // By a rename, as a reader may look at any moment.
    std::fs::write(path.with_extension("new"), sample_adapter(&model, seed)).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

/// The model with adapters of these names.
async fn load(slots: u32, names: &[&str]) -> (Held, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (seed, name) in (1..).zip(names) {
        put(folder.path(), name, seed);
    }
    let adapters = Some(folder.path().to_owned());
    let options =
        LlamaOptions { context: 1024, slots, queue: 4, adapters, ..LlamaOptions::new(model_file(), "smollm2-135m") };
    let lease = Lease::from_grant("mainpc/coordination".parse().unwrap(), "llm.tiny".parse().unwrap(), 2 << 30);
    (Held::load(options, lease).await, folder)
}

fn chat(adapter: Option<&str>, messages: &[(ChatRole, &str)], max_tokens: u32) -> TextRequest {
    let messages = messages.iter().map(|(role, text)| ChatMessage::new(*role, *text)).collect();
    let request = TextRequest::new(Prompt::Chat(messages));
    let adapter = adapter.map(str::to_owned);
    TextRequest { max_tokens: Some(max_tokens), sampling: Sampling::greedy(), adapter, ..request }
}

async fn answer(model: &LlamaGenerator, request: TextRequest) -> (String, Finished) {
    model.generate(request).await.unwrap().collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_model_keeps_the_promises_about_adapters() {
    let (model, folder) = load(2, &["warm"]).await;
    let info = AdapterInfo::read(&folder.path().join("warm.gguf"), &model_file()).unwrap();
    assert_eq!((info.rank, info.alpha), (4, 8.0));
    conformance::adapters(&*model, "warm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_model_keeps_what_it_read_apart_by_adapter() {
    for slots in [1, 2] {
        let (model, _folder) = load(slots, &["warm"]).await;
        let question = [(ChatRole::User, "How much water does a mango tree need, and how often should it be watered?")];
        let turn = |adapter, messages: &[(ChatRole, &str)]| TextRequest {
            session: Some("ann".to_owned()),
            ..chat(adapter, messages, 8)
        };
        let (said, plain) = answer(&model, turn(None, &question)).await;
        let then = [question[0], (ChatRole::Assistant, &said), (ChatRole::User, "And in the dry season?")];
        let (warm, changed) = answer(&model, turn(Some("warm"), &then)).await;
        assert_eq!(changed.tokens.reused, 0, "it was read without the adapter");
        let last = [&then[..], &[(ChatRole::Assistant, &warm), (ChatRole::User, "Thank you.")]].concat();
        let (_, again) = answer(&model, turn(Some("warm"), &last)).await;
        assert!(again.tokens.reused >= changed.tokens.prompt, "{again:?} after {changed:?}");

        // With a seed everything is read anew: what was kept is what would have been read.
        let anew = |adapter, messages: &[(ChatRole, &str)]| {
            let request = chat(adapter, messages, 8);
            TextRequest { sampling: Sampling { seed: Some(1), ..request.sampling }, ..request }
        };
        assert_eq!(answer(&model, anew(Some("warm"), &then)).await.0, warm);
        let (plainly, once_more) = answer(&model, anew(None, &question)).await;
        assert_eq!((plainly, once_more.tokens.prompt), (said, plain.tokens.prompt));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_model_takes_turns_between_adapters() {
    let (model, _folder) = load(3, &["warm", "cold"]).await;
    let story = |adapter, tokens| model.generate(chat(adapter, &[(ChatRole::User, "Tell a long story.")], tokens));
    let mut plain = story(None, 400).await.unwrap();
    assert!(matches!(plain.next().await, Some(Ok(TextEvent::Text(_)))));
    let (mut warm, mut cold) = (story(Some("warm"), 60).await.unwrap(), story(Some("cold"), 60).await.unwrap());
    // Whoever came first is in the midst of it, and the others begin all the same.
    for other in [&mut warm, &mut cold] {
        assert!(matches!(other.next().await, Some(Ok(TextEvent::Text(_)))));
    }
    assert_eq!(model.load().busy, 3);
    while let Some(Some(_)) = plain.next().now_or_never() {}
    assert!(matches!(plain.next().await, Some(Ok(TextEvent::Text(_)))), "it goes on beside them");
    let (_, warm, cold) = tokio::join!(plain.collect(), warm.collect(), cold.collect());
    assert_eq!((warm.unwrap().1.tokens.prompt, cold.unwrap().1.tokens.reused), (plain_prompt(&model).await, 0));
}

async fn plain_prompt(model: &LlamaGenerator) -> u32 {
    model.count_tokens(&chat(None, &[(ChatRole::User, "Tell a long story.")], 1).prompt).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_model_holds_few_adapters_and_takes_up_new_files() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let (model, folder) = load(1, &names).await;
    let say = async |adapter| {
        let request = chat(adapter, &[(ChatRole::User, "Tell me something about the sea.")], 16);
        answer(&model, TextRequest { sampling: Sampling { seed: Some(1), ..request.sampling }, ..request }).await.0
    };
    let mut said = Vec::new();
    for name in names {
        said.push(say(Some(name)).await);
    }
    let different: std::collections::BTreeSet<&String> = said.iter().collect();
    assert!(different.len() >= 5, "the adapters hardly differ: {said:?}");
    // The first were dropped for the last.
    for (name, said) in names.iter().zip(&said) {
        assert_eq!(say(Some(name)).await, *said, "{name}");
    }
    put(folder.path(), "a", 2);
    assert_eq!(say(Some("a")).await, said[1], "the new file is what b is");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_model_refuses_an_adapter_for_that_request_only() {
    let (model, folder) = load(1, &["warm"]).await;
    let hello = |adapter| chat(Some(adapter), &[(ChatRole::User, "Hello.")], 4);
    std::fs::write(folder.path().join("page.gguf"), b"<html>not found</html>").unwrap();
    let larger = GgufInfo { layers: 40, ..GgufInfo::read(&model_file()).unwrap() };
    std::fs::write(folder.path().join("other.gguf"), sample_adapter(&larger, 1)).unwrap();
    for (name, code, reason, said) in [
        ("nobody", Code::NotFound, NO_ADAPTER, "nobody.gguf does not exist"),
        ("page", Code::FailedPrecondition, ADAPTER_UNFIT, "is not a GGUF file"),
        ("other", Code::FailedPrecondition, ADAPTER_UNFIT, "the model has no `blk.39.attn_q.weight`"),
    ] {
        let fault = model.generate(hello(name)).await.unwrap_err();
        assert_eq!((fault.code, fault.reason.as_str()), (code, reason), "{fault}");
        assert!(fault.message.contains(said), "{fault}");
    }
    answer(&model, hello("warm")).await;
    answer(&model, chat(None, &[(ChatRole::User, "Hello.")], 4)).await;
}
