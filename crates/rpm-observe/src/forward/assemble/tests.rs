//! Tests of how lines become records.

use super::*;

const ALL: Room = Room {
    records: usize::MAX,
    bytes: usize::MAX,
};

fn texts(text: &str, dated: bool, tail: Tail) -> Vec<String> {
    let taken = assemble(text.as_bytes(), dated, tail, ALL);
    taken.records.into_iter().map(|raw| raw.text).collect()
}

#[test]
fn a_line_is_a_record_and_a_stack_is_one_too() {
    let node = "Error: boom\n    at f (a.js:1:2)\n    at g (a.js:3:4) {\n  code: 'E'\n}";
    let uncaught =
        "/srv/a.js:3\n    throw new Error('x');\n    ^\n\nError: x\n    at a.js:3:1\n\nNode.js v22.1.0";
    let python = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    g()\nKeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 2\nValueError: b";
    let java = "java.lang.IllegalStateException: a\n\tat A.f(A.java:1)\nCaused by: java.io.IOException: b\n\tat B.g(B.java:2)\n\t... 12 more";
    let go = "panic: boom\n\ngoroutine 1 [running]:\nmain.f(0x1)\n\t/srv/a.go:5 +0x1d\nmain.main()\n\t/srv/a.go:9 +0x1d\nexit status 2";
    let rust = "thread 'main' panicked at src/main.rs:2:5:\nboom\nnote: run with `RUST_BACKTRACE=1`";
    let dotnet = "Unhandled exception. System.Exception: a\n   at A.F()\n   --- End of inner exception stack trace ---\n   at B.G()";
    let object = "{\n  a: 1,\n  b: [\n    2\n  ]\n}";
    for stack in [node, uncaught, python, java, go, rust, dotnet, object] {
        let text = format!("before\n{stack}\nafter 1\nafter 2\n");
        let expected = ["before", stack, "after 1", "after 2"];
        assert_eq!(texts(&text, false, Tail::Quiet), expected);
        // Whatever comes between two looks, a line is never in two records.
        for cut in 0..text.len() {
            let first = assemble(&text.as_bytes()[..cut], false, Tail::Growing, ALL);
            let rest = assemble(&text.as_bytes()[first.consumed..], false, Tail::Quiet, ALL);
            let both: Vec<String> = first
                .records
                .into_iter()
                .chain(rest.records)
                .map(|raw| raw.text)
                .collect();
            assert_eq!(both, expected, "cut at {cut}");
        }
    }
}

#[test]
fn what_may_go_on_waits() {
    for (text, tail, expected, consumed) in [
        ("one\ntwo\n", Tail::Growing, &["one"][..], 4),
        ("one\ntwo\n", Tail::Quiet, &["one", "two"], 8),
        ("one\ntw", Tail::Quiet, &["one"], 4),
        ("one\ntw", Tail::Ended, &["one", "tw"], 6),
        ("\n\n", Tail::Growing, &[], 2),
        ("one\n\n\n", Tail::Growing, &[], 0),
        ("one\n\n\ntwo\n", Tail::Growing, &["one"], 6),
        ("one\r\ntwo\n", Tail::Quiet, &["one", "two"], 9),
        ("\0\0\0one\n", Tail::Quiet, &["one"], 7),
        ("{\"a\":1}\n", Tail::Growing, &["{\"a\":1}"], 8),
        ("{\"a\":1}\n  two\n", Tail::Quiet, &["{\"a\":1}", "  two"], 14),
        ("", Tail::Ended, &[], 0),
    ] {
        let taken = assemble(text.as_bytes(), false, tail, ALL);
        let texts: Vec<&str> = taken.records.iter().map(|raw| raw.text.as_str()).collect();
        assert_eq!(
            (texts.as_slice(), taken.consumed),
            (expected, consumed),
            "{text:?} {tail:?}"
        );
    }
}

#[test]
fn records_are_bounded() {
    let stack = format!("Error: a\n{}", "    at f (a.js:1:2)\n".repeat(20_000));
    let long = "ä".repeat(RECORD_BYTES);
    for text in [format!("{stack}after\n"), format!("{long}\nafter\n")] {
        let taken = assemble(text.as_bytes(), false, Tail::Quiet, ALL);
        assert_eq!(taken.consumed, text.len());
        assert!(
            taken
                .records
                .iter()
                .all(|raw| raw.end - raw.begin <= RECORD_BYTES + 1)
        );
        let joined: String = taken.records.iter().map(|raw| raw.text.as_str()).collect();
        assert_eq!(
            joined.replace('\n', ""),
            text.replace('\n', ""),
            "nothing is missing"
        );
        assert!(joined.ends_with("after") && taken.records.len() < 10);
        let some = assemble(
            text.as_bytes(),
            false,
            Tail::Quiet,
            Room {
                records: 1,
                bytes: usize::MAX,
            },
        );
        assert_eq!((some.records.len(), some.consumed), (1, some.records[0].end));
        let some = assemble(text.as_bytes(), false, Tail::Quiet, Room { records: 9, bytes: 1 });
        assert_eq!(some.records.len(), 1);
    }
    // Progress, whatever is at hand: twice a record is always enough for one.
    let blank = format!("one\n{}", "\n".repeat(2 * RECORD_BYTES));
    let spaces = format!("one\n{}", " ".repeat(2 * RECORD_BYTES));
    let full = format!("{}\n{}", "a".repeat(RECORD_BYTES - 1), "b".repeat(RECORD_BYTES));
    for text in [&long, &stack, &blank, &spaces, &full] {
        let text = &text.as_bytes()[..2 * RECORD_BYTES];
        let taken = assemble(text, false, Tail::Growing, ALL);
        assert!(taken.consumed > 0 && !taken.records.is_empty());
    }
}

#[test]
fn what_the_daemon_adds_is_taken_off() {
    let dated = "2026-03-05T14:07:09: Error: a\n2026-03-05T14:07:09:     at f\n2026-03-05T14:07:10: b\n";
    let expected = [
        "2026-03-05T14:07:09: Error: a\n    at f",
        "2026-03-05T14:07:10: b",
    ];
    assert_eq!(texts(dated, true, Tail::Quiet), expected);
    let wrapped = |message: &str, id: u32| {
        let object = serde_json::json!({"message": message, "timestamp": "2026-03-05T13:07:09.042Z", "type": "err", "process_id": id, "app_name": "web"});
        format!("{object}\n")
    };
    let text = wrapped("Error: a\n", 1) + &wrapped("    at f\n", 1) + &wrapped("    at g\n", 2);
    let taken = assemble(text.as_bytes(), false, Tail::Quiet, ALL);
    let texts: Vec<&str> = taken.records.iter().map(|raw| raw.text.as_str()).collect();
    assert_eq!(
        texts,
        ["Error: a\n    at f", "    at g"],
        "another worker has written the last line"
    );
    let expected = Envelope {
        time_ns: Some(1_772_716_029_042_000_000),
        id: Some(1),
        stream: Some(Stream::Err),
    };
    assert_eq!(
        (&taken.records[0].envelope, taken.records[0].lines),
        (&expected, 2)
    );
}

#[test]
fn what_is_no_text_is_bounded_as_it_is_sent() {
    let line = vec![0xff; 3 * RECORD_BYTES];
    let stack = [
        b"Error: a\n".to_vec(),
        [b"    ".to_vec(), vec![0xff; 9_000], b"\n".to_vec()]
            .concat()
            .repeat(20),
    ]
    .concat();
    let mixed = [
        vec![b'a'; RECORD_BYTES - 1],
        "ä".repeat(9_000).into_bytes(),
        vec![0xc3; 9_000],
    ]
    .concat();
    for bytes in [line, stack, mixed] {
        let text = [bytes.as_slice(), b"\nafter\n"].concat();
        let (mut at, mut texts) = (0, Vec::new());
        while at < text.len() {
            // As much as is read at once.
            let end = text.len().min(at + 2 * RECORD_BYTES);
            let tail = if end == text.len() {
                Tail::Quiet
            } else {
                Tail::Growing
            };
            let taken = assemble(&text[at..end], false, tail, ALL);
            assert!(taken.consumed > 0, "it goes on");
            at += taken.consumed;
            texts.extend(taken.records.into_iter().map(|raw| raw.text));
        }
        assert!(
            texts.iter().all(|text| text.len() <= RECORD_BYTES),
            "{:?}",
            texts.iter().map(String::len).collect::<Vec<_>>()
        );
        let without = |text: &str| text.replace('\n', "");
        assert_eq!(without(&texts.concat()), without(&String::from_utf8_lossy(&text)));
    }
}

#[test]
fn what_has_nothing_but_what_the_daemon_adds_is_blank() {
    let wrapped = |message: &str| {
        let object = serde_json::json!({"message": message, "timestamp": "2026-03-05T13:07:09.042Z", "type": "out", "process_id": 1, "app_name": "web"});
        format!("{object}\n")
    };
    let json = wrapped("\n") + &wrapped("one\n") + &wrapped("  \n");
    assert_eq!(texts(&json, false, Tail::Quiet), ["one"]);
    let dated = "2026-03-05T14:07:09: \n2026-03-05T14:07:09: one\n2026-03-05T14:07:10: \n";
    assert_eq!(texts(dated, true, Tail::Quiet), ["2026-03-05T14:07:09: one"]);
    let whole = assemble(dated.as_bytes(), true, Tail::Quiet, ALL);
    assert_eq!(whole.consumed, dated.len());
}
