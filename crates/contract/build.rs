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
