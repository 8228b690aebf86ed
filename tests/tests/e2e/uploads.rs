//! Behind the proxy: workers that answer before they have read the whole request.

use rpm_e2e::place::Place;
use rpm_e2e::raw::Connection;
use rpm_testkit::{Port, Rpm};

const PART: usize = 100_000;
const PARTS: usize = 10;
/// More than all buffers between a client and a worker hold.
const MUCH: usize = 20_000_000;

/// Answers `/early` at once and reads on; rejects what is sent to `/refuse`, and with `/close` closes the connection; `/came` returns how
/// much has arrived, once that is complete.
const APP: &str = "
let came;
require('http').createServer((q, r) => {
    if (q.url === '/came') return came.then((what) => r.end(what));
    if (q.url === '/refuse') return r.writeHead(413, { 'content-length': 2 }).end('no');
    if (q.url === '/close') return r.writeHead(413, { 'content-length': 2, connection: 'close' }).end('no');
    let length = 0;
    q.on('data', (part) => { length += part.length; });
    came = new Promise((tell) => {
        q.on('aborted', () => tell(`aborted after ${length}`));
        q.on('end', () => tell(`whole ${length}`));
    });
    r.writeHead(202, { 'content-length': 2 }).end('ok');
}).listen(process.env.PORT);";

fn app(rpm: &Rpm, place: &Place, port: &Port) {
    place.write("app.js", APP);
    let mut start = rpm.command(["start", "app.js", "-i", "1", "--balance", "proxy"]);
    start
        .current_dir(place.path())
        .env("PORT", port.number().to_string());
    assert!(start.output().expect("it runs").status.success(), "{}", rpm.log());
}

#[test]
fn an_upload_that_is_answered_early_reaches_its_worker_whole() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&rpm, &place, &port);
    for chunked in [false, true] {
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {}", PART * PARTS)
        };
        let mut connection = Connection::open(&port);
        connection.send(&format!("POST /early HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n"));
        for part in 0..PARTS {
            if chunked {
                connection.send(&format!("{PART:x}\r\n"));
            }
            connection.send_bytes(&[b'x'; PART]);
            if chunked {
                connection.send("\r\n");
            }
            if part == 0 {
                let answer = connection.answer();
                assert_eq!((answer.status, answer.body.as_str()), (202, "ok"));
            }
        }
        if chunked {
            connection.send("0\r\n\r\n");
        }
        connection.send("GET /came HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(connection.answer().body, format!("whole {}", PART * PARTS));
    }
}

#[test]
fn a_client_that_sends_all_before_it_reads_sees_that_it_was_refused() {
    let (rpm, place, port) = (Rpm::new(), Place::new(), Port::reserve());
    app(&rpm, &place, &port);
    for path in ["/refuse", "/close"] {
        let mut connection = Connection::open(&port);
        connection.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {MUCH}\r\n\r\n"
        ));
        for _ in 0..MUCH / PART {
            connection.send_bytes(&[b'x'; PART]);
        }
        let answer = connection.answer();
        assert_eq!((answer.status, answer.body.as_str()), (413, "no"), "{path}");
    }
}
