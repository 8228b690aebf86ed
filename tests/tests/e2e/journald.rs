//! Logs that are sent to journald. The one of a real systemd is in `systemd.rs`.

use std::os::unix::net::UnixDatagram;

use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm};
use serde_json::json;

use crate::forwarding::{BOUND, WRITER};

#[test]
fn journald_gets_records_with_their_fields() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let path = place.path().join("journal");
    let journal = UnixDatagram::bind(&path).expect("a socket");
    journal.set_read_timeout(Some(BOUND)).expect("a time");
    let app = json!({"name": "writer", "script": "writer.sh", "interpreter": "sh"});
    let to =
        json!({"to": "journald", "address": format!("unix:{}", path.display()), "labels": {"env": "test"}});
    let file = json!({"apps": [app], "observe": {"listen": listen.number(), "logs": [to]}});
    place.write("writer.sh", WRITER);
    place.write("site.json", &file.to_string());
    place.ok(&rpm, ["start", "site.json"]);
    rpm.ok(["send", "writer", "object"]);
    rpm.ok(["send", "writer", "stack"]);
    let mut buffer = [0; 4096];
    let mut next = || {
        let count = journal.recv(&mut buffer).expect("a record");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    let object = next();
    for field in [
        "MESSAGE={\"level\":50,",
        "\nPRIORITY=3\n",
        "\nSYSLOG_IDENTIFIER=writer\n",
        "\nSYSLOG_TIMESTAMP=2026-03-05T13:07:09.042",
        "\nRPM_STREAM=out\n",
        "\nTRACE_ID=4bf92f3577b34da6a3ce929d0e0e4736\n",
        "\nENV=test\n",
    ] {
        assert!(object.contains(field), "{field:?} in {object}");
    }
    let stack = next();
    assert!(
        stack.starts_with("MESSAGE\n\u{1d}\0\0\0\0\0\0\0Error: deep\n    at f\n    at g\n"),
        "{stack}"
    );
}
