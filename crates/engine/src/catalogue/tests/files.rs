use crate::catalogue::{Catalogue, MIRROR, MODELS, Mirror, built_in};

#[test]
fn the_built_in_files_fit_together() {
    let (catalogue, mirror) = built_in().unwrap();
    for model in catalogue.models() {
        let parts = mirror.parts(&model.name);
        assert_eq!(parts.iter().map(|part| part.size_bytes).sum::<u64>(), model.size_bytes, "{}", model.name);
        assert!(catalogue.roles().iter().any(|need| need.context_tokens <= model.context_tokens), "{}", model.name);
    }
    for need in catalogue.roles() {
        assert!(catalogue.models().iter().any(|model| model.roles.contains(&need.role)), "{}", need.role);
    }
    for text in [MODELS, MIRROR] {
        assert!(!text.contains("://"), "addresses belong to the hub's constant and to the package clients");
    }
}

fn problems(result: Result<impl Sized, tandem_types::Fault>) -> Vec<String> {
    let fault = result.err().expect("a faulty file must be refused");
    fault.violations.iter().map(|violation| format!("{}: {}", violation.field, violation.problem)).collect()
}

#[test]
fn a_catalogue_reports_every_problem_with_its_line() {
    let text = r#"
[[role]]
name = "llm.tiny"
context_tokens = 4096
at_most_mib = -1

[[role]]
name = "LLM"
context_tokens = 4096
at_most_mib = 900

[[model]]
name = "../etc"
roles = ["llm.tiny", 7]
quality = "best"
format = "pt"
parameters = 1
quantisation = ""
context_tokens = 0
kv_bytes_per_token = 1
size_bytes = 1
sha256 = "AB"
licence = "MIT"
languages = []
official = { repo = "a/b", file = "/x", branch = "main" }
colour = "red"

[[modle]]
"#;
    assert_eq!(
        problems(Catalogue::parse(text)),
        [
            "models.toml:5 at_most_mib: is not a whole number of at least 1",
            "models.toml:8 name: `LLM` is not a role name: lower-case letters, digits, `_` and `.`, a letter first, \
             at most 63",
            "models.toml:12 work_mib: is missing",
            "models.toml:13 name: is not made of letters, digits and `.`, `_`, `+`, `-`, a letter or digit first",
            "models.toml:14 roles: holds a value of type integer",
            "models.toml:15 quality: is not a whole number of at least 1",
            "models.toml:16 format: is neither `gguf` nor `onnx` nor `library` nor `recording`",
            "models.toml:18 quantisation: is empty",
            "models.toml:19 context_tokens: is not a whole number of at least 1",
            "models.toml:22 sha256: is not 64 lower-case hex digits",
            "models.toml:24 languages: is not a list with at least one text",
            "models.toml:25 revision: is missing",
            "models.toml:25 file: is not a relative path of letters, digits and `.`, `_`, `+`, `-`, each step a \
             letter or digit first",
            "models.toml:25 branch: unknown; known are repo, revision, file",
            "models.toml:26 colour: unknown; known are name, format, roles, quality, parameters, quantisation, \
             context_tokens, kv_bytes_per_token, work_mib, size_bytes, sha256, licence, languages, official",
            "models.toml:28 modle: unknown; known are role, model",
        ]
    );
}

#[test]
fn what_is_no_language_model_needs_no_context_and_a_library_no_role() {
    let hash = "0".repeat(64);
    let text = format!(
        "[[role]]
         name = \"vad\"
         at_most_mib = 64

         [[model]]
         name = \"ear\"
         roles = [\"vad\"]
         quality = 1
         format = \"onnx\"
         parameters = 10
         quantisation = \"f32\"
         work_mib = 8
         size_bytes = 1048576
         sha256 = \"{hash}\"
         licence = \"MIT\"
         file = \"ear.onnx\"

         [[model]]
         name = \"runtime\"
         format = \"library\"
         size_bytes = 5
         sha256 = \"{hash}\"
         licence = \"MIT\"
         file = \"librun.so\"
         "
    );
    let catalogue = Catalogue::parse(&text).unwrap();
    let ear = catalogue.model("ear").unwrap();
    assert_eq!(
        (ear.format, ear.memory_bytes(0) >> 20, ear.file.as_str()),
        (crate::catalogue::Format::Onnx, 9, "ear.onnx")
    );
    assert_eq!((&ear.official, ear.context_tokens, ear.kv_bytes_per_token), (&None, 0, 0));
    let runtime = catalogue.model("runtime").unwrap();
    assert_eq!((runtime.format, runtime.roles.len()), (crate::catalogue::Format::Library, 0));
    let wrong = text.replace("quantisation = \"f32\"", "").replace("file = \"librun.so\"", "roles = [\"vad\"]");
    let found = problems(Catalogue::parse(&wrong));
    for expected in ["quantisation: is missing", "official: is missing", "roles: unknown; known are name, format"] {
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected} is not in {found:#?}");
    }
}

#[test]
fn rows_of_a_catalogue_must_not_contradict_each_other() {
    let twice = format!("{MODELS}\n{}", MODELS.replace("llm.judge", "llm.dream"));
    let found = problems(Catalogue::parse(&twice));
    for expected in [
        "name: `llm.tiny` has two rows",
        "name: `smollm2-135m` has two rows",
        "quality: is also that of `qwen2.5-coder-0.5b`: the better one needs the higher number",
    ] {
        assert!(found.iter().any(|problem| problem.ends_with(expected)), "{expected} is not in {found:#?}");
    }
    let no_role = MODELS.replacen("name = \"llm.judge\"", "name = \"llm.dream\"", 1);
    let found = problems(Catalogue::parse(&no_role));
    assert!(found.len() == 1 && found[0].ends_with("roles: `llm.judge` has no [[role]] row"), "{found:?}");
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    let found = problems(Catalogue::parse("[[role]]\nname = \"a\"\nname = \"b\"\nx = = 3\n"));
    assert!(found.iter().any(|problem| problem.starts_with("models.toml:3")), "{found:#?}");
    assert!(found.iter().any(|problem| problem.starts_with("models.toml:4")), "{found:#?}");
}

#[test]
fn a_mirror_reports_every_problem_with_its_line() {
    let (catalogue, _) = built_in().unwrap();
    let text = r#"
[[mirror]]
model = "no-such"
sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
parts = [
  { order = 1, kind = "apt", name = "--help", version = "1", member = "../x", size_bytes = 1 },
]
[[mirror]]
model = "smollm2-135m"
sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
parts = [
  { order = 1, kind = "pip", name = "a", version = "1", member = "x", size_bytes = 10 },
  { order = 3, kind = "npm", name = "@b/c", version = "1", member = "x", size_bytes = 10 },
]
"#;
    assert_eq!(
        problems(Mirror::parse(text, &catalogue)),
        [
            "models-mirror.toml:3 model: no model `no-such` in the catalogue; known are smollm2-135m, \
             qwen2.5-coder-0.5b, qwen2.5-coder-1.5b, silero-vad, smart-turn-v3.2, \
             onnxruntime-1.22.1, speech-jfk",
            "models-mirror.toml:6 kind: is neither `pip` nor `npm`",
            "models-mirror.toml:6 name: is not made of letters, digits and `.`, `_`, `+`, `-`, a letter or digit first",
            "models-mirror.toml:6 member: is not a relative path of letters, digits and `.`, `_`, `+`, `-`, each step \
             a letter or digit first",
            "models-mirror.toml:10 sha256: is not that of `smollm2-135m` in models.toml",
            "models-mirror.toml:11 parts: `order` does not count 1, 2, 3, ... from the first part on",
            "models-mirror.toml:11 parts: hold 20 bytes together; `smollm2-135m` has 98362432",
        ]
    );
}
