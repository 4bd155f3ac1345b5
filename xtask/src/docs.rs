//! Documentation that is made from code.

use std::fmt::Write as _;

/// The error table as Markdown, for `docs/errors.md` to point at.
pub(crate) fn error_table() -> String {
    let mut text = String::from(
        "<!-- made by `cargo xtask generate` from crates/contract/src/errors.rs -->\n\n\
         | Code | gRPC | HTTP | Whose fault | Retry | What to do |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for row in tandem_contract::TABLE {
        let line = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.code, row.grpc, row.http, row.fault_of, row.retry, row.hint
        );
        // Writing into a String cannot fail.
        let (Ok(()) | Err(_)) = line;
    }
    text
}
