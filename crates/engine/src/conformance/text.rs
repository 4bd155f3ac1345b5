//! The promises of [`TextGenerator`], as a test that any implementation must pass.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use tandem_types::{Code, Fault, reason};

use crate::{
    ChatMessage, ChatRole, FinishReason, Finished, NO_ADAPTER, Prompt, Sampling, TextEvent, TextGenerator, TextRequest,
};

/// Longer than any of this takes on a slow machine; only a broken implementation gets there.
const PATIENCE: Duration = Duration::from_secs(120);

fn ask(text: &str, max_tokens: u32) -> TextRequest {
    let prompt = Prompt::Chat(vec![ChatMessage::new(ChatRole::User, text)]);
    TextRequest { max_tokens: Some(max_tokens), sampling: Sampling::greedy(), ..TextRequest::new(prompt) }
}

async fn whole(model: &dyn TextGenerator, request: TextRequest) -> Result<(String, Finished), Fault> {
    let answer = async { model.generate(request).await?.collect().await };
    tokio::time::timeout(PATIENCE, answer).await.expect("the answer never ended")
}

async fn until_idle(model: &dyn TextGenerator) {
    let idle = async {
        while model.load() != Default::default() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.expect("slots were not given back");
}

/// Checks every promise of [`TextGenerator`]. The model must carry a chat template, have nothing else to do, and be
/// able to write 40 tokens about anything.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn text_generator(model: &dyn TextGenerator) {
    answers_and_counts(model).await;
    stops_where_told(model).await;
    refuses_with_reasons(model).await;
    serves_many_and_frees_what_is_dropped(model).await;
}

async fn answers_and_counts(model: &dyn TextGenerator) {
    let info = model.info().clone();
    assert!(info.slots >= 1 && info.context_tokens >= 64 && info.chat_template, "{info:?}");

    let request = ask("Count from one to twenty.", 12);
    let counted = model.count_tokens(&request.prompt).await.expect("count");
    let (text, finished) = whole(model, request.clone()).await.expect("an answer");
    assert!(!text.is_empty());
    assert_eq!(finished.tokens.prompt, counted, "usage and count_tokens differ");
    assert!(finished.tokens.reused < finished.tokens.prompt.max(1) && finished.tokens.written <= 12, "{finished:?}");
    if finished.reason == FinishReason::Length {
        assert_eq!(finished.tokens.written, 12);
    }

    let seeded = || {
        let sampling = Sampling { seed: Some(7), ..Sampling::default() };
        whole(model, TextRequest { sampling, ..request.clone() })
    };
    let first = seeded().await.expect("a seeded answer").0;
    assert_eq!(first, seeded().await.expect("the same answer").0, "the same seed gave another answer");
}

async fn stops_where_told(model: &dyn TextGenerator) {
    let mut request = ask("Tell me about the sea.", 40);
    request.sampling.seed = Some(1);
    let (text, finished) = whole(model, request.clone()).await.expect("an answer");
    let middle = text.char_indices().nth(text.chars().count() / 2).map(|(at, _)| at).expect("some text");
    let stop: String = text[middle..].chars().take(3).collect();
    let before = text.find(&stop).expect("part of the text");

    request.stop = vec!["\u{1F30A} never said".to_owned(), stop];
    let (stopped, end) = whole(model, request).await.expect("a shorter answer");
    assert_eq!(stopped, text[..before], "the stop text or what follows it was sent");
    assert_eq!(end.reason, FinishReason::Stop);
    assert!(end.tokens.written <= finished.tokens.written);
}

async fn refuses_with_reasons(model: &dyn TextGenerator) {
    let empty = TextRequest::new(Prompt::Chat(Vec::new()));
    let fault = whole(model, empty).await.expect_err("an empty conversation");
    assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "messages"));

    let context = model.info().context_tokens;
    let long = ask(&"word ".repeat(2 * context as usize), 8);
    let tokens = model.count_tokens(&long.prompt).await.expect("any length is counted");
    let fault = whole(model, long).await.expect_err("a prompt over the context");
    assert_eq!((fault.code, fault.reason.as_str()), (Code::InvalidArgument, reason::CONTEXT_LENGTH));
    for count in [tokens, context] {
        assert!(fault.message.contains(&count.to_string()), "{} does not say {count}", fault.message);
    }

    let with = |adapter: &str| TextRequest { adapter: Some(adapter.to_owned()), ..ask("Hello.", 4) };
    let fault = whole(model, with("nobody")).await.expect_err("an adapter that is not there");
    assert_eq!((fault.code, fault.reason.as_str()), (Code::NotFound, NO_ADAPTER));
    let fault = whole(model, with("../nobody")).await.expect_err("no name of an adapter");
    assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "adapter"));
}

/// Checks what [`TextGenerator`] promises of adapters. The model must be as for [`text_generator`], with two slots at
/// least, and `adapter` must change what it says first to a greeting.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn adapters(model: &dyn TextGenerator, adapter: &str) {
    // With a seed nothing is taken from kept prefixes, so that answers can be compared to the letter.
    let request = |adapter: Option<&str>| TextRequest {
        adapter: adapter.map(str::to_owned),
        sampling: Sampling { seed: Some(1), ..Sampling::greedy() },
        ..ask("Hello, how are you today?", 24)
    };
    let plain = whole(model, request(None)).await.expect("an answer").0;
    let changed = whole(model, request(Some(adapter))).await.expect("an answer with the adapter").0;
    assert_ne!(plain, changed, "the adapter changes nothing");
    let (one, other) = tokio::join!(whole(model, request(None)), whole(model, request(Some(adapter))));
    assert_eq!(one.expect("the answer without").0, plain, "the adapter of another request changed this one");
    assert_eq!(other.expect("the answer with").0, changed, "beside one without the adapter it is another");
    assert_eq!(whole(model, request(None)).await.expect("the first again").0, plain, "the adapter stayed");
    let fault = whole(model, request(Some("nobody"))).await.expect_err("an adapter that is not there");
    assert_eq!((fault.code, fault.reason.as_str()), (Code::NotFound, NO_ADAPTER));
}

async fn serves_many_and_frees_what_is_dropped(model: &dyn TextGenerator) {
    let (slots, queue) = (model.info().slots, model.info().queue);
    let asks = (0..slots + queue).map(|n| whole(model, ask(&format!("Say {n}."), 4)));
    try_join_all(asks).await.expect("as many answers as slots and places in the queue");

    until_idle(model).await;
    let long = || model.generate(ask("Write a very long story about a journey.", 200));
    let mut streams = Vec::new();
    for _ in 0..slots + queue {
        streams.push(long().await.expect("a slot or a place in the queue"));
    }
    // One of the first may have ended already, so refusals are sought among a few.
    let refused = join_all((0..=slots).map(|_| long())).await;
    let fault = refused.iter().find_map(|outcome| outcome.as_ref().err()).expect("nothing was refused");
    assert_eq!((fault.code, fault.reason.as_str()), (Code::ResourceExhausted, reason::QUEUE_FULL));
    assert!(fault.retry_after.is_some_and(|after| !after.is_zero()));
    drop(refused);

    assert!(matches!(streams[0].next().await, Some(Ok(TextEvent::Text(_)))));
    drop(streams);
    until_idle(model).await;
    whole(model, ask("Are you there?", 4)).await.expect("slots are free again");
}
