use super::*;

fn chat(body: &str) -> ChatRequest {
    read(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {}", error.message))
}

fn said(request: &ChatRequest) -> Vec<(&str, &str)> {
    request.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

/// Bodies as openai-python 3.54 and openai-node 7.57 send them.
#[test]
fn bodies_of_the_official_clients_are_understood() {
    let plain = chat(r#"{"model":"tandem","messages":[{"role":"user","content":"Hi"}]}"#);
    assert_eq!((plain.model.as_str(), plain.stream, plain.options.max_tokens), ("tandem", false, 0));
    assert_eq!(said(&plain), [("user", "Hi")]);

    let python = chat(
        r#"{"model":"tandem","stream":true,"messages":[{"role":"developer","content":"Be brief"},{"role":"user",
        "content":[{"type":"text","text":"Hi"},{"type":"text","text":" there"}]}],"max_completion_tokens":20,"n":1,"seed":7,
        "stop":["\n","END"],"stream_options":{"include_usage":true},"temperature":0.2,"top_p":0.9,"user":"u"}"#,
    );
    assert_eq!(said(&python), [("system", "Be brief"), ("user", "Hi\n there")]);
    assert!(python.stream && python.include_usage);
    assert_eq!(
        python.options,
        GenerationOptions {
            max_tokens: 20,
            temperature: Some(0.2),
            top_p: Some(0.9),
            seed: Some(7),
            stop: vec!["\n".into(), "END".into()],
            ..Default::default()
        }
    );

    let again = chat(
        r#"{"model":"tandem","messages":[{"role":"user","content":"Hi"},{"content":"Hello","role":"assistant"},
        {"role":"user","content":"Again"}],"logprobs":false,"max_tokens":5,"response_format":{"type":"text"},"stop":"x"}"#,
    );
    assert_eq!(said(&again)[1], ("assistant", "Hello"));
    assert_eq!((again.options.max_tokens, again.options.stop.as_slice()), (5, &["x".to_owned()][..]));

    let node = chat(
        r#"{"model":"tandem","messages":[{"role":"system","content":"Be brief"},{"role":"user","content":[{"type":"text",
        "text":"Hi"}]},{"role":"assistant","content":"Hello","refusal":null,"annotations":[]},{"role":"user","content":"x"}],
        "stream":true,"stream_options":{"include_usage":true},"stop":"END","seed":7,"max_tokens":9}"#,
    );
    assert_eq!(said(&node), [("system", "Be brief"), ("user", "Hi"), ("assistant", "Hello"), ("user", "x")]);
}

/// What other programs send along by habit.
#[test]
fn settings_that_say_what_happens_anyway_are_accepted() {
    for extra in [
        r#""frequency_penalty":0,"presence_penalty":0.0"#,
        r#""tools":[],"tool_choice":"auto","parallel_tool_calls":true"#,
        r#""logit_bias":{},"logprobs":false,"top_logprobs":0"#,
        r#""temperature":null,"stop":null,"tools":null,"n":null,"audio":null"#,
        r#""metadata":{"a":"b"},"store":true,"service_tier":"auto","prompt_cache_key":"k","safety_identifier":"s""#,
        r#""max_tokens":7,"max_completion_tokens":7"#,
        r#""stream":true,"stream_options":{"include_obfuscation":false}"#,
        r#""modalities":["text"],"verbosity":"medium","reasoning_effort":"none""#,
    ] {
        chat(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],{extra}}}"#));
    }
}

#[test]
fn a_wrong_parameter_is_named_with_a_word_for_programs() {
    for (extra, param, code) in [
        (r#""tools":[{"type":"function"}]"#, "tools", "unsupported_parameter"),
        (r#""response_format":{"type":"json_schema"}"#, "response_format", "unsupported_parameter"),
        (r#""logprobs":true"#, "logprobs", "unsupported_parameter"),
        (r#""frequency_penalty":0.5"#, "frequency_penalty", "unsupported_parameter"),
        (r#""tool_choice":"required""#, "tool_choice", "unsupported_parameter"),
        (r#""n":2"#, "n", "unsupported_value"),
        (r#""temprature":1"#, "temprature", "unknown_parameter"),
        (r#""temperature":"warm""#, "temperature", "invalid_type"),
        (r#""temperature":2.1"#, "temperature", "invalid_value"),
        (r#""top_p":-0.1"#, "top_p", "invalid_value"),
        (r#""max_tokens":0"#, "max_tokens", "invalid_value"),
        (r#""max_tokens":1,"max_completion_tokens":2"#, "max_tokens", "invalid_value"),
        (r#""seed":1.5"#, "seed", "invalid_type"),
        (r#""stop":7"#, "stop", "invalid_type"),
        (r#""stop":["a",""]"#, "stop", "invalid_value"),
        (r#""stream":"yes""#, "stream", "invalid_type"),
        (r#""stream_options":{"include_usage":true}"#, "stream_options", "invalid_value"),
        (r#""stream":true,"stream_options":{"usage":true}"#, "stream_options.usage", "unknown_parameter"),
        (r#""stream":true,"stream_options":{"include_usage":1}"#, "stream_options.include_usage", "invalid_type"),
        (r#""model":7"#, "model", "invalid_type"),
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],{extra}}}"#);
        let error = read(body.as_bytes()).expect_err(extra);
        assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some(param), Some(code)), "{extra}");
        assert_eq!((error.status, error.kind, error.retry), (400, "invalid_request_error", false), "{extra}");
    }
}

#[test]
fn a_wrong_message_is_named_by_its_place() {
    for (message, param, code) in [
        (r#"{"role":"tool","content":"x","tool_call_id":"1"}"#, "messages[1].role", "unsupported_value"),
        (r#"{"role":"robot","content":"x"}"#, "messages[1].role", "invalid_value"),
        (r#"{"content":"x"}"#, "messages[1].role", "invalid_value"),
        (r#""x""#, "messages[1]", "invalid_type"),
        (r#"{"role":"user"}"#, "messages[1].content", "invalid_type"),
        (r#"{"role":"user","content":[]}"#, "messages[1].content", "invalid_type"),
        (r#"{"role":"user","content":"x","name":"Ana"}"#, "messages[1].name", "unsupported_parameter"),
        (r#"{"role":"user","content":"x","mood":"good"}"#, "messages[1].mood", "unknown_parameter"),
        (
            r#"{"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"data:,"}}]}"#,
            "messages[1].content[1].type",
            "unsupported_value",
        ),
        (r#"{"role":"user","content":[{"type":"text"}]}"#, "messages[1].content[0].text", "invalid_type"),
        (
            r#"{"role":"assistant","content":"x","tool_calls":[{"id":"1"}]}"#,
            "messages[1].tool_calls",
            "unsupported_parameter",
        ),
    ] {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}},{message}]}}"#);
        let error = read(body.as_bytes()).expect_err(message);
        assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some(param), Some(code)), "{message}");
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let error = read(br#"{"messages":[{"role":"robot","content":7}],"n":3,"tools":[1]}"#).unwrap_err();
    for param in ["'messages[0].role'", "'messages[0].content'", "'n'", "'tools'", "'model' is missing"] {
        assert!(error.message.contains(param), "{param} is not in: {}", error.message);
    }
    for body in ["", "[]", "7", "{", "null"] {
        assert_eq!(read(body.as_bytes()).unwrap_err().status, 400, "{body:?}");
    }
    assert_eq!(read(br#"{"model":"m","messages":[]}"#).unwrap_err().param.as_deref(), Some("messages"));
}

#[test]
fn seeds_of_every_sign_differ() {
    let seed = |text: &str| {
        chat(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"seed":{text}}}"#)).options.seed
    };
    let seeds = ["0", "1", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615"].map(seed);
    assert_eq!(seeds[0], Some(0));
    assert_eq!(
        seeds.iter().collect::<std::collections::HashSet<_>>().len(),
        5,
        "-1 and 2^64-1 share theirs: {seeds:?}"
    );
}
