//! The order of functions that release builds are linked in.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::root;

fn piped(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn functions_are_found_whatever_the_numbers_of_a_build() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.gz");
    let names = "_RNvNtC4core3str5lines\nsqlite3Malloc\n_RNvC5alloc5first\n_RNvC4gone4gone\n";
    std::fs::write(&list, piped(Command::new("gzip").arg("-c"), names.as_bytes())).unwrap();
    let symbols = "main T 0 1\n\
                   _RNvCs1Ab2_5alloc5first t 0 1\n\
                   _RNvNtCsgEmfK2I1SDS_4core3str5lines.llvm.123 t 0 1\n\
                   _RNvNtCsgEmfK2I1SDS_4core3str5other t 0 1\n\
                   _RNvNtCsgEmfK2I1SDS_4core3str5lines.7 t 0 1\n";
    let order = piped(Command::new(root().join("scripts/layout/order")).arg(&list), symbols.as_bytes());
    assert_eq!(
        String::from_utf8(order).unwrap().lines().collect::<Vec<_>>(),
        [
            "_RNvNtCsgEmfK2I1SDS_4core3str5lines.llvm.123",
            "_RNvNtCsgEmfK2I1SDS_4core3str5lines.7",
            "sqlite3Malloc",
            "_RNvCs1Ab2_5alloc5first"
        ]
    );
}
