//! Where a destination of logs begins that is new: with what is written from the moment at which it is configured.

use std::os::unix::net::UnixDatagram;

use rpm_e2e::outside::{freeze, thaw};
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Rpm, wait_until};
use serde_json::{Value, json};

use crate::forwarding::{BOUND, WRITER};

/// The process that forwards has no CPU while the app prints and its log is rotated.
#[test]
fn nothing_is_missing_of_what_was_printed_before_it_came_to_read() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let path = place.path().join("journal");
    let journal = UnixDatagram::bind(&path).expect("a socket");
    journal.set_read_timeout(Some(BOUND)).expect("a time");
    place.write("writer.sh", WRITER);
    let start = |logs: &Value| {
        let app = json!({"name": "writer", "script": "writer.sh", "interpreter": "sh", "log_max_size": "20K", "log_keep": 100});
        let file = json!({"apps": [app], "observe": {"listen": listen.number(), "logs": logs}});
        place.write("site.json", &file.to_string());
        place.ok(&rpm, ["start", "site.json"]);
    };
    start(&json!([]));
    let status = rpm.ok(["observe", "status", "--json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let observer = status["process"]["pid"].as_u64().expect("it runs");
    let observer = u32::try_from(observer).expect("a pid");
    freeze(observer);
    start(&json!([{"to": "journald", "address": format!("unix:{}", path.display())}]));
    for first in [1, 5_001] {
        rpm.ok(["send", "writer", &first.to_string()]);
        let last = format!("line {}.\n", first + 4_999);
        let present = || std::fs::read_to_string(rpm.home().join("logs/writer-out.log")).unwrap_or_default();
        let rotated =
            || std::fs::read_to_string(rpm.home().join("logs/writer-out.log.1")).unwrap_or_default();
        wait_until(
            "it is printed",
            BOUND,
            || present() + &rotated(),
            |text| text.contains(&last),
        );
    }
    thaw(observer);
    let mut buffer = [0; 4096];
    for number in 1..=10_000 {
        let count = journal.recv(&mut buffer).expect("a record");
        let record = String::from_utf8_lossy(&buffer[..count]);
        let expected = format!("MESSAGE=line {number}.\n");
        assert!(record.starts_with(&expected), "{expected} in {record}");
    }
}
