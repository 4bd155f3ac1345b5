//! What is known about each model and each role: `models.toml`.

use tandem_types::{Fault, Role};

use super::fields::{Fields, Report, not_empty, plain_name, plain_path, sha256};

const MIB: u64 = 1024 * 1024;

/// The bounds of a role's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleNeed {
    /// The role.
    pub role: Role,
    /// Tokens of context its engine keeps, all slots together; 0 where there is nothing of the kind.
    pub context_tokens: u64,
    /// The most memory its engine may take.
    pub at_most_bytes: u64,
}

/// How a model's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The one-file format of llama.cpp.
    Gguf,
    /// A graph of the Open Neural Network Exchange, for ONNX Runtime.
    Onnx,
    /// No model: a shared library that engines load.
    Library,
    /// No model: speech that models are tried with.
    Recording,
}

impl Format {
    /// Whether there is an engine process that runs models of this format. What none runs is chosen for no role.
    pub fn is_served(self) -> bool {
        self == Self::Gguf
    }

    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Onnx => "onnx",
            Self::Library => "library",
            Self::Recording => "recording",
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "gguf" => Ok(Self::Gguf),
            "onnx" => Ok(Self::Onnx),
            "library" => Ok(Self::Library),
            "recording" => Ok(Self::Recording),
            _ => Err("is neither `gguf` nor `onnx` nor `library` nor `recording`"),
        }
    }
}

/// Where the makers of a file published it on the model hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Official {
    /// `owner/name` of the repository.
    pub repo: String,
    /// Commit, tag or branch.
    pub revision: String,
    /// Path of the file in the repository.
    pub file: String,
}

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name in the command line, in the fleet file and on disk.
    pub name: String,
    /// The roles it suits; none for what is no model.
    pub roles: Vec<Role>,
    /// Of two models the one with the higher number answers better; no two are equal. 0 for what is no model.
    pub quality: u64,
    /// The layout of the file.
    pub format: Format,
    /// Number of weights, as its makers count them; 0 for what is no model.
    pub parameters: u64,
    /// How the weights are packed, in the words of the format; empty for what is no model.
    pub quantisation: String,
    /// The longest context it was trained for, in tokens; 0 for what is no language model.
    pub context_tokens: u64,
    /// Memory that one token of context takes, with 16-bit keys and values; 0 for what is no language model.
    pub kv_bytes_per_token: u64,
    /// Memory of the engine beside weights and context.
    pub work_bytes: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file, in lower-case hex.
    pub sha256: String,
    /// SPDX name of the licence.
    pub licence: String,
    /// Languages its makers declare, as language tags; none where it knows no language.
    pub languages: Vec<String>,
    /// Name of the file on disk.
    pub file: String,
    /// The first place to fetch the file from, where the model hub has it.
    pub official: Option<Official>,
}

impl Model {
    /// Resident memory of an engine that serves this model with so many tokens of context (all slots together).
    pub fn memory_bytes(&self, context_tokens: u64) -> u64 {
        self.size_bytes + self.kv_bytes_per_token * context_tokens + self.work_bytes
    }
}

/// The models and roles that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    models: Vec<Model>,
    roles: Vec<RoleNeed>,
}

impl Catalogue {
    /// Reads a catalogue; the fault lists every problem with its line.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (mut report, document) = Report::parse("models.toml", text);
        report.only(&document, &["role", "model"]);
        let mut roles: Vec<RoleNeed> = Vec::new();
        for row in report.rows(&document, "role") {
            let mut fields = Fields::new(&mut report, row);
            let read = role(&mut fields);
            if let Some(need) = read {
                if roles.iter().any(|other| other.role == need.role) {
                    fields.add("name", format!("`{}` has two rows", need.role));
                }
                roles.push(need);
            }
            fields.no_others();
        }
        let mut models: Vec<Model> = Vec::new();
        for row in report.rows(&document, "model") {
            let mut fields = Fields::new(&mut report, row);
            if let Some(read) = model(&mut fields) {
                check(&read, &models, &roles, &mut fields);
                models.push(read);
            }
            fields.no_others();
        }
        report.finish().map(|()| Self { models, roles })
    }

    /// All models, as the file lists them.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The bounds of all roles, as the file lists them.
    pub fn roles(&self) -> &[RoleNeed] {
        &self.roles
    }

    /// The model of that name; the fault lists the known names.
    pub fn model(&self, name: &str) -> Result<&Model, Fault> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| {
            let known = self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
            Fault::not_found(format!("no model `{name}` in the catalogue; known are {known}"))
        })
    }

    /// The bounds of a role, if the catalogue has it.
    pub fn role(&self, role: &Role) -> Option<&RoleNeed> {
        self.roles.iter().find(|need| &need.role == role)
    }
}

fn role(fields: &mut Fields<'_, '_, '_>) -> Option<RoleNeed> {
    let role = fields.text("name", str::parse::<Role>);
    let context_tokens = if fields.has("context_tokens") { fields.count("context_tokens") } else { Some(0) };
    let at_most_mib = fields.count("at_most_mib");
    Some(RoleNeed { role: role?, context_tokens: context_tokens?, at_most_bytes: at_most_mib? * MIB })
}

fn model(fields: &mut Fields<'_, '_, '_>) -> Option<Model> {
    let name = fields.text("name", plain_name);
    let format = fields.text("format", Format::parse);
    // What is wrong in a row of a wrong format is said all the same.
    let is_model = !matches!(format, Some(Format::Library | Format::Recording));
    let of_text = format.is_none_or(|format| format == Format::Gguf);
    let roles = if is_model { fields.texts("roles", str::parse::<Role>) } else { Some(Vec::new()) };
    let quality = if is_model { fields.count("quality") } else { Some(0) };
    let parameters = if is_model { fields.count("parameters") } else { Some(0) };
    let quantisation = if is_model { fields.text("quantisation", not_empty) } else { Some(String::new()) };
    let context_tokens = if of_text { fields.count("context_tokens") } else { Some(0) };
    let kv_bytes_per_token = if of_text { fields.count("kv_bytes_per_token") } else { Some(0) };
    let work_mib = if is_model { fields.count("work_mib") } else { Some(0) };
    let size_bytes = fields.count("size_bytes");
    let sha256 = fields.text("sha256", sha256);
    let licence = fields.text("licence", not_empty);
    let languages =
        if of_text || fields.has("languages") { fields.texts("languages", not_empty) } else { Some(Vec::new()) };
    let (official, file) = if fields.has("official") || !fields.has("file") {
        let official = fields.table("official").and_then(official);
        let file = official.as_ref().map(|official| last_step(&official.file).to_owned());
        (official.map(Some), file)
    } else {
        (Some(None), fields.text("file", plain_name))
    };
    Some(Model {
        name: name?,
        roles: roles?,
        quality: quality?,
        format: format?,
        parameters: parameters?,
        quantisation: quantisation?,
        context_tokens: context_tokens?,
        kv_bytes_per_token: kv_bytes_per_token?,
        work_bytes: work_mib? * MIB,
        size_bytes: size_bytes?,
        sha256: sha256?,
        licence: licence?,
        languages: languages?,
        file: file?,
        official: official?,
    })
}

fn official(mut fields: Fields<'_, '_, '_>) -> Option<Official> {
    let repo = fields.text("repo", plain_path);
    let revision = fields.text("revision", plain_path);
    let file = fields.text("file", plain_path);
    fields.no_others();
    Some(Official { repo: repo?, revision: revision?, file: file? })
}

fn last_step(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a row must keep towards the others.
fn check(model: &Model, others: &[Model], roles: &[RoleNeed], fields: &mut Fields<'_, '_, '_>) {
    for other in others {
        if other.name == model.name {
            fields.add("name", format!("`{}` has two rows", model.name));
        }
        if other.quality == model.quality && model.quality > 0 {
            fields.add("quality", format!("is also that of `{}`: the better one needs the higher number", other.name));
        }
    }
    for role in model.roles.iter().filter(|role| roles.iter().all(|need| &need.role != *role)) {
        fields.add("roles", format!("`{role}` has no [[role]] row"));
    }
}
