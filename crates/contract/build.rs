//! Compiles the protos in pure Rust (no `protoc` on the machine), generates the messages, and one typed constant per RPC.
//!
//! Services are taken out before messages are generated: agents serve single RPCs rather than whole services, so the
//! typed constants of `rpc` (see `src/rpc.rs`) replace generated service traits. The full set stays for reflection.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn protos(dir: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// `GetResult` as `GET_RESULT`, `GetDataRequest` as `GET_DATA_REQUEST`.
fn shouting(name: &str) -> String {
    let mut text = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

/// `.tandem.session.v1.Turn` as `crate::pb::tandem::session::v1::Turn`.
fn rust_type(proto: &str) -> String {
    format!("crate::pb{}", proto.replace('.', "::"))
}

fn rpcs(set: &prost_types::FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    let mut all = String::new();
    for file in &set.file {
        for service in &file.service {
            let path = format!("{}.{}", file.package(), service.name());
            let module = service.name().to_lowercase();
            writeln!(code, "/// RPCs of `{path}`.\npub mod {module} {{\n    use crate::rpc::*;")?;
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "Unary",
                    (false, true) => "ServerStream",
                    (true, true) => "Bidi",
                    (true, false) => panic!("{path}/{}: client streams are not used", method.name()),
                };
                let constant = shouting(method.name());
                writeln!(code, "    /// `{path}/{}`.", method.name())?;
                writeln!(
                    code,
                    "    pub const {constant}: {kind}<{}, {}> = {kind}::new(\"/{path}/{}\");",
                    rust_type(method.input_type()),
                    rust_type(method.output_type()),
                    method.name(),
                )?;
                writeln!(all, "    {module}::{constant}.facts(),")?;
            }
            writeln!(code, "}}")?;
        }
    }
    writeln!(code, "/// Every RPC of the contract.\npub const ALL: &[crate::rpc::RpcFacts] = &[\n{all}];")?;
    Ok(code)
}

/// Index of every message, by its full name with a leading dot.
fn messages<'a>(
    scope: &str,
    found: &'a [prost_types::DescriptorProto],
    all: &mut Vec<(String, &'a prost_types::DescriptorProto)>,
) {
    for message in found {
        let name = format!("{scope}.{}", message.name());
        all.push((name.clone(), message));
        messages(&name, &message.nested_type, all);
    }
}

fn enums<'a>(
    scope: &str,
    here: &'a [prost_types::EnumDescriptorProto],
    inner: &'a [prost_types::DescriptorProto],
    all: &mut Vec<(String, &'a prost_types::EnumDescriptorProto)>,
) {
    all.extend(here.iter().map(|e| (format!("{scope}.{}", e.name()), e)));
    for message in inner {
        enums(&format!("{scope}.{}", message.name()), &message.enum_type, &message.nested_type, all);
    }
}

/// What a request may hold, as constants: which fields each message has and of what kind (see `src/strict.rs`). Tables
/// in the program cost a process nothing until it reads them; a descriptor set read at run time stays in its memory.
fn schema(set: &prost_types::FileDescriptorSet) -> Result<String, std::fmt::Error> {
    use prost_types::field_descriptor_proto::{Label, Type};
    let (mut all, mut words) = (Vec::new(), Vec::new());
    for file in &set.file {
        let scope = format!(".{}", file.package());
        messages(&scope, &file.message_type, &mut all);
        enums(&scope, &file.enum_type, &file.message_type, &mut words);
    }
    let place = |name: &str| all.iter().position(|(known, _)| known == name).expect("every message is in the set");
    let word = |name: &str| words.iter().position(|(known, _)| known == name).expect("every enum is in the set");
    let mut code = String::from("use super::{Field, Kind, Message};\n");
    writeln!(code, "pub(super) static MESSAGES: &[Message] = &[")?;
    for (_, message) in &all {
        let map_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
        writeln!(code, "    Message {{ map_entry: {map_entry}, fields: &[")?;
        for field in &message.field {
            let kind = match field.r#type() {
                Type::Message | Type::Group => format!("Message({})", place(field.type_name())),
                Type::Enum => format!("Enum({})", word(field.type_name())),
                simple => format!("{simple:?}"),
            };
            writeln!(
                code,
                "        Field {{ number: {}, json: {:?}, proto: {:?}, kind: Kind::{kind}, repeated: {} }},",
                field.number(),
                field.json_name(),
                field.name(),
                field.label() == Label::Repeated,
            )?;
        }
        writeln!(code, "    ] }},")?;
    }
    writeln!(code, "];\npub(super) static ENUMS: &[&[&str]] = &[")?;
    for (_, values) in &words {
        let names: Vec<&str> = values.value.iter().map(|value| value.name()).collect();
        writeln!(code, "    &{names:?},")?;
    }
    let mut inputs = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                inputs.push((path, place(method.input_type())));
            }
        }
    }
    inputs.sort();
    writeln!(code, "];\n/// Sorted by path.\npub(super) static INPUTS: &[(&str, usize)] = &{inputs:?};")?;
    Ok(code)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    protos(root, &mut files)?;
    files.sort();

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let mut set = compiler.file_descriptor_set();
    std::fs::write(out.join("_rpcs.rs"), rpcs(&set)?)?;
    std::fs::write(out.join("_schema.rs"), schema(&set)?)?;

    let mut bare = set.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("contract.binpb"), bare.encode_to_vec())?;

    set.file.iter_mut().for_each(|file| file.service.clear());
    let messages = out.join("messages.binpb");
    std::fs::write(&messages, set.encode_to_vec())?;
    let relative: Vec<PathBuf> =
        files.iter().map(|f| f.strip_prefix(root).map(Path::to_path_buf)).collect::<Result<_, _>>()?;
    connectrpc_build::Config::new()
        .files(&relative)
        .descriptor_set(&messages)
        .emit_rerun_directives(false)
        .include_file("_messages.rs")
        .compile()?;
    Ok(())
}
