//! What is known about each model and each role: `models.toml`.

use tandem_types::{Fault, Role};

use super::fields::{Fields, Report, not_empty, plain_name, plain_path, sha256};

const MIB: u64 = 1024 * 1024;

/// The bounds of a role's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleNeed {
    /// The role.
    pub role: Role,
    /// Tokens of context its engine keeps, all slots together.
    pub context_tokens: u64,
    /// The most memory its engine may take.
    pub at_most_bytes: u64,
}

/// How a model's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The one-file format of llama.cpp.
    Gguf,
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
    /// The roles it suits.
    pub roles: Vec<Role>,
    /// Of two models the one with the higher number answers better; no two are equal.
    pub quality: u64,
    /// The layout of the file.
    pub format: Format,
    /// Number of weights, as its makers count them.
    pub parameters: u64,
    /// How the weights are packed, in the words of the format.
    pub quantisation: String,
    /// The longest context it was trained for, in tokens.
    pub context_tokens: u64,
    /// Memory that one token of context takes, with 16-bit keys and values.
    pub kv_bytes_per_token: u64,
    /// Memory of the engine beside weights and context.
    pub work_bytes: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file, in lower-case hex.
    pub sha256: String,
    /// SPDX name of the licence.
    pub licence: String,
    /// Languages its makers declare, as language tags.
    pub languages: Vec<String>,
    /// The first place to fetch the file from.
    pub official: Official,
}

impl Model {
    /// Resident memory of an engine that serves this model with so many tokens of context (all slots together).
    pub fn memory_bytes(&self, context_tokens: u64) -> u64 {
        self.size_bytes + self.kv_bytes_per_token * context_tokens + self.work_bytes
    }

    /// Name of the file on disk.
    pub fn file_name(&self) -> &str {
        self.official.file.rsplit('/').next().unwrap_or(&self.official.file)
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
    let context_tokens = fields.count("context_tokens");
    let at_most_mib = fields.count("at_most_mib");
    Some(RoleNeed { role: role?, context_tokens: context_tokens?, at_most_bytes: at_most_mib? * MIB })
}

fn model(fields: &mut Fields<'_, '_, '_>) -> Option<Model> {
    let name = fields.text("name", plain_name);
    let roles = fields.texts("roles", str::parse::<Role>);
    let quality = fields.count("quality");
    let format = fields.text("format", |text| if text == "gguf" { Ok(Format::Gguf) } else { Err("is not `gguf`") });
    let parameters = fields.count("parameters");
    let quantisation = fields.text("quantisation", not_empty);
    let context_tokens = fields.count("context_tokens");
    let kv_bytes_per_token = fields.count("kv_bytes_per_token");
    let work_mib = fields.count("work_mib");
    let size_bytes = fields.count("size_bytes");
    let sha256 = fields.text("sha256", sha256);
    let licence = fields.text("licence", not_empty);
    let languages = fields.texts("languages", not_empty);
    let official = fields.table("official").and_then(|mut fields| {
        let repo = fields.text("repo", plain_path);
        let revision = fields.text("revision", plain_path);
        let file = fields.text("file", plain_path);
        fields.no_others();
        Some(Official { repo: repo?, revision: revision?, file: file? })
    });
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
        official: official?,
    })
}

/// What a row must keep towards the others.
fn check(model: &Model, others: &[Model], roles: &[RoleNeed], fields: &mut Fields<'_, '_, '_>) {
    for other in others {
        if other.name == model.name {
            fields.add("name", format!("`{}` has two rows", model.name));
        }
        if other.quality == model.quality {
            fields.add("quality", format!("is also that of `{}`: the better one needs the higher number", other.name));
        }
    }
    for role in model.roles.iter().filter(|role| roles.iter().all(|need| &need.role != *role)) {
        fields.add("roles", format!("`{role}` has no [[role]] row"));
    }
}
