//! What is made of the grammar beside the program.

#[path = "../../examples/man/pages.rs"]
mod pages;

use std::io::Write as _;
use std::process::{Command, Stdio};

use rpm_testkit::skip;

/// What groff prints of a page, and what it complains of.
fn formatted(page: &[u8]) -> std::io::Result<(String, String)> {
    let mut groff = Command::new("groff")
        .args(["-man", "-ww", "-Tutf8", "-rLL=78n", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    groff.stdin.take().expect("it is piped").write_all(page)?;
    let done = groff.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&done.stdout), text(&done.stderr)))
}

#[test]
fn man_pages_have_every_command_and_no_fault() {
    let pages = pages::all("rpm").expect("pages");
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.len() > 45, "{names:?}");
    assert_eq!(names[0], "rpm.1");
    for name in ["rpm-start.1", "rpm-reload.1", "rpm-sendSignal.1", "rpm-demo.1"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(!names.contains(&"rpm-daemon.1"), "{names:?}");
    for (name, page) in &pages {
        let (text, complaints) = match formatted(page) {
            Ok(done) => done,
            Err(error) => {
                return skip(
                    "man_pages_have_every_command_and_no_fault",
                    &format!("no groff: {error}"),
                );
            }
        };
        assert_eq!(complaints, "", "{name}:\n{}", String::from_utf8_lossy(page));
        assert!(text.contains("SYNOPSIS"), "{name}:\n{text}");
        let example = name == "rpm.1" || text.contains("EXAMPLES");
        assert!(example, "{name}:\n{text}");
    }
    let reload = pages
        .iter()
        .find(|(name, _)| name == "rpm-reload.1")
        .expect("it is there");
    let (text, _) = formatted(&reload.1).expect("groff runs");
    // A line of its own each, to be copied.
    assert!(
        text.contains("\n       rpm reload ecosystem.config.js --env production\n"),
        "{text}"
    );
}
