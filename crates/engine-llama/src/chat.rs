//! A conversation in the form its model was trained on: the Jinja template in the model's file.
//!
//! llama.cpp's own function knows a list of forms and compares; it leaves out what a template says beyond its form, such
//! as the system message a model has when nobody gives one.

use std::borrow::Cow;

use hf_chat_template::{ChatTemplate, Error};
use serde_json::json;
use tandem_engine::{ChatMessage, ChatRole};
use tandem_types::Fault;

/// A template that was tried out.
#[derive(Debug)]
pub(crate) struct ChatForm {
    template: ChatTemplate,
    bos: String,
    eos: String,
    /// It has a place for what a system message says.
    system: bool,
}

impl ChatForm {
    /// Reads a template, with the texts of the tokens that begin and end a text.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn new(source: &str, bos: String, eos: String) -> Result<Self, String> {
        let template = ChatTemplate::from_str(source).map_err(|e| e.to_string())?;
        let mut form = Self { template, bos, eos, system: true };
        let (system, user) = (said(ChatRole::System, "be brief"), said(ChatRole::User, "hello"));
        form.system = form.fill(&[system, user.clone()]).is_ok_and(|text| text.contains("be brief"));
        let alone = form.fill(&[user]).map_err(|e| e.to_string())?;
        if alone.contains("hello") { Ok(form) } else { Err("it leaves out what a user says".to_owned()) }
    }

    /// The conversation as text, up to where the assistant begins to speak.
    ///
    /// # Errors
    /// `invalid_argument` when the template refuses such a conversation, with its words; `internal` when it fails.
    pub(crate) fn write(&self, messages: &[ChatMessage]) -> Result<String, Fault> {
        let messages = if self.system { Cow::Borrowed(messages) } else { Cow::Owned(without_system(messages)) };
        let outcome = match self.fill(&messages) {
            // Many templates insist on turns that alternate, and people do say two things in a row.
            Err(Error::TemplateRaised { .. }) => self.fill(&alternating(&messages)),
            outcome => outcome,
        };
        outcome.map_err(|error| match error {
            Error::TemplateRaised { message } => {
                Fault::invalid_field("messages", format!("are not a conversation this model knows: {message}"))
            }
            error => Fault::internal(format!("put a conversation into the form of its model: {error}")),
        })
    }

    /// Whether a text in this form begins with the token that begins a text, which then must not be put there again.
    pub(crate) fn begins(&self, text: &str) -> bool {
        !self.bos.is_empty() && text.starts_with(&self.bos)
    }

    fn fill(&self, messages: &[ChatMessage]) -> Result<String, Error> {
        let messages: Vec<_> =
            messages.iter().map(|m| json!({"role": m.role.as_str(), "content": m.content})).collect();
        self.template.render_context(&json!({
            "messages": messages,
            "add_generation_prompt": true,
            // An answer is read while it is written; what a model thinks before it would be read as the answer.
            "enable_thinking": false,
            "bos_token": self.bos,
            "eos_token": self.eos,
        }))
    }
}

fn said(role: ChatRole, text: &str) -> ChatMessage {
    ChatMessage { role, content: text.to_owned() }
}

/// What the system says is put before what the user says first.
fn without_system(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let (system, mut rest): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|m| m.role == ChatRole::System);
    if system.is_empty() {
        return rest;
    }
    let mut text = system.into_iter().map(|m| m.content).collect::<Vec<_>>().join("\n\n");
    match rest.iter_mut().find(|m| m.role == ChatRole::User) {
        Some(first) => first.content = format!("{text}\n\n{}", first.content),
        None => rest.insert(0, said(ChatRole::User, &std::mem::take(&mut text))),
    }
    rest
}

/// What one side says in a row becomes one message.
fn alternating(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mut joined: Vec<ChatMessage> = Vec::new();
    for message in messages {
        match joined.last_mut().filter(|last| last.role == message.role) {
            Some(last) => last.content = format!("{}\n\n{}", last.content, message.content),
            None => joined.push(message.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use tandem_types::Code;

    use super::*;
    use ChatRole::{Assistant, System, User};

    const CHATML: &str = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nI am \
        me<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const STRICT: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') \
        }}{% endif %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}\
        [{{ m.role[0] }}]{{ m.content.strip() }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}[a]";
    const THINKS: &str =
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}<think></think>{% endif %}";

    fn form(source: &str) -> ChatForm {
        ChatForm::new(source, "<s>".into(), "</s>".into()).unwrap()
    }

    #[test]
    fn conversations_take_the_form_of_their_model() {
        for (source, conversation, text) in [
            (
                CHATML,
                &[(System, "brief"), (User, " hi ")][..],
                "<|im_start|>system\nbrief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
            ),
            // What the model says of itself when nobody else does.
            (
                CHATML,
                &[(User, "hi")],
                "<|im_start|>system\nI am me<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
            ),
            (STRICT, &[(User, "hi"), (Assistant, "yes?"), (User, "well")], "<s>[u]hi[a]yes?</s>[u]well[a]"),
            // No place for a system message, and no two turns in a row.
            (STRICT, &[(System, "brief"), (User, "hi")], "<s>[u]brief\n\nhi[a]"),
            (STRICT, &[(System, "brief")], "<s>[u]brief[a]"),
            (STRICT, &[(User, "hi"), (User, "there")], "<s>[u]hi\n\nthere[a]"),
            (THINKS, &[(User, "hi")], "hi<think></think>"),
        ] {
            let conversation: Vec<_> = conversation.iter().map(|(role, text)| said(*role, text)).collect();
            assert_eq!(form(source).write(&conversation).unwrap(), text);
        }
        assert!(form(STRICT).begins("<s>[u]") && !form(CHATML).begins("<|im_start|>"));
    }

    #[test]
    fn what_a_template_refuses_is_said_in_its_words() {
        let fault = form(STRICT).write(&[said(Assistant, "I begin")]).unwrap_err();
        assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "messages"));
        assert!(fault.violations[0].problem.ends_with("take turns"), "{fault:?}");
        for (source, why) in [("{% for %}", "syntax"), ("always the same", "leaves out"), ("{{ x.y.z }}", "undefined")]
        {
            let problem = ChatForm::new(source, String::new(), String::new()).unwrap_err();
            assert!(problem.contains(why), "{source}: {problem}");
        }
    }
}
