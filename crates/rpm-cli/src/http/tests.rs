//! Requests against a peer that answers from a script.

use rpm_wire::api::{ChangeReply, Process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PONG: &str = r#"{"msg":"pong","version":"9.9.9","pid":7}"#;

fn response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers the greeting and then one request with these pieces, and closes; gives what it was asked.
async fn peer(mut stream: UnixStream, pieces: Vec<String>) -> String {
    request(&mut stream).await;
    stream
        .write_all(response("200 OK", PONG).as_bytes())
        .await
        .expect("greeting");
    let asked = request(&mut stream).await;
    for piece in pieces {
        stream.write_all(piece.as_bytes()).await.expect("answer");
    }
    asked
}

/// Reads up to the end of the head and of its body.
async fn request(stream: &mut UnixStream) -> String {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap_or("0");
            if body.len() >= length.parse().expect("length") {
                return text.into_owned();
            }
        }
        assert!(
            stream.read_buf(&mut seen).await.expect("request") > 0,
            "closed early"
        );
    }
}

fn converse<T>(pieces: &[String], talk: impl AsyncFnOnce(Session) -> T) -> (T, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let peer = peer(theirs, pieces.to_vec());
        let talk = async { talk(Session::open(ours).await.expect("greeted")).await };
        tokio::join!(talk, peer)
    })
}

#[test]
fn a_change_is_posted_and_its_reply_read() {
    let answer = response("200 OK", r#"{"processes":[],"notes":["n"]}"#);
    let (reply, asked) = converse(&[answer], async |mut session: Session| {
        assert_eq!(session.pong().version, "9.9.9");
        session
            .post::<ChangeReply>("/v1/actions", &["x"])
            .await
            .expect("reply")
    });
    assert_eq!(reply.notes, ["n"]);
    assert!(
        asked.starts_with("POST /v1/actions HTTP/1.1\r\n") && asked.ends_with("[\"x\"]"),
        "{asked}"
    );
}

#[test]
fn refusals_carry_the_daemons_words() {
    let answer = response("404 Not Found", r#"{"error":"no app `x`","hint":"rpm list"}"#);
    let get = async |mut session: Session| session.get::<Vec<Process>>("/v1/processes").await;
    let (outcome, _) = converse(&[answer], get);
    match outcome {
        Err(RequestError::Api(api)) => assert_eq!(
            (api.error.as_str(), api.hint.as_deref()),
            ("no app `x`", Some("rpm list"))
        ),
        other => panic!("{other:?}"),
    }
    let (outcome, _) = converse(&[response("500 Internal Server Error", "oops\n")], get);
    let error = outcome.expect_err("refused").to_string();
    assert_eq!(error, "the daemon answered 500 Internal Server Error: oops");
}

#[test]
fn broken_answers_are_errors() {
    let get = async |mut session: Session| session.get::<Vec<Process>>("/v1/processes").await;
    assert!(matches!(
        converse(&[response("200 OK", "{}")], get).0,
        Err(RequestError::Unexpected(_))
    ));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[".to_owned();
    assert!(matches!(converse(&[cut], get).0, Err(RequestError::Cut(_))));
    assert!(matches!(
        converse(&["nonsense\r\n\r\n".to_owned()], get).0,
        Err(RequestError::Broken(_))
    ));
    assert!(matches!(converse(&[], get).0, Err(RequestError::Broken(_))));
}

#[test]
fn lines_come_whole_however_they_are_sent() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let pieces = [
        head,
        chunk("one\ntw"),
        chunk("o"),
        chunk("\nthree\nfo"),
        chunk("ur"),
        chunk(""),
    ];
    let (lines, asked) = converse(&pieces, async |mut session: Session| {
        let mut stream = session.lines("/v1/logs?lines=1").await.expect("stream");
        let mut all = Vec::new();
        while let Some(lines) = stream.next().await.expect("lines") {
            assert!(lines.ends_with(b"\n") || lines == b"four", "{lines:?}");
            all.extend(lines);
        }
        all
    });
    assert_eq!(lines, b"one\ntwo\nthree\nfour");
    assert!(asked.starts_with("GET /v1/logs?lines=1 HTTP/1.1\r\n"), "{asked}");
}

#[test]
fn a_killed_daemon_has_closed_its_side() {
    let (outcome, asked) = converse(&[response("200 OK", "{}")], async |session: Session| {
        session.kill().await
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(asked.starts_with("POST /v1/kill HTTP/1.1\r\n"), "{asked}");
}

#[test]
fn names_are_encoded_for_a_path() {
    assert_eq!(percent_encoded("web-1.x_~"), "web-1.x_~");
    assert_eq!(percent_encoded("a/b?c=d é%"), "a%2Fb%3Fc%3Dd%20%C3%A9%25");
}
