//! The binaries by themselves. Besides, a test of this package makes every build of the tests build the binary too, for `tests` to run.

use std::process::Command;

#[test]
fn it_says_its_version() {
    let done = Command::new(env!("CARGO_BIN_EXE_rpm"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        format!("rpm {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn what_belongs_to_it_says_so() {
    let done = Command::new(env!("CARGO_BIN_EXE_rpm-observe"))
        .arg("--help")
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        done.status.code() == Some(1) && said.contains("`rpm observe`"),
        "{said}"
    );
}
