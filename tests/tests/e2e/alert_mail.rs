//! Alerts by mail: a server of our own takes them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rpm_e2e::ask::BOUND;
use rpm_e2e::certificate::certificate;
use rpm_e2e::outside::kill;
use rpm_e2e::place::Place;
use rpm_testkit::{Port, Ran, Rpm, fixture, node};
use serde_json::{Value, json};

use crate::alerts::observed;

/// A mail server behind the proxy, which encrypts. It writes down what it hears.
const SERVER: &str = r#"
const { appendFileSync } = require('node:fs');
require('node:net').createServer((client) => {
  let [rest, data] = ['', false];
  client.write('220 mail.test ESMTP\r\n');
  client.on('error', () => {});
  client.on('data', (bytes) => {
    const lines = (rest + bytes).split('\r\n');
    rest = lines.pop();
    for (const line of lines) {
      appendFileSync('heard', `${line}\n`);
      if (data && line !== '.') continue;
      const answers = { EHLO: '250-mail.test\r\n250 AUTH PLAIN', AUTH: '235 welcome', DATA: '354 go on', '.': '250 queued' };
      data = line === 'DATA';
      client.write(`${answers[line.split(' ')[0]] ?? '250 fine'}\r\n`);
    }
  });
}).listen(process.env.PORT);
"#;

/// A mail, and what was said before it.
#[derive(Debug)]
struct Mail {
    commands: Vec<String>,
    text: String,
}

/// A mail server that wants a password in one of these ways, or none. It refuses mail to `nobody`.
fn server(auth: &'static str) -> (u16, Receiver<Mail>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (mails, received) = channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            // A client that hangs up is none of ours.
            let _ = serve(client.expect("a client"), auth, &mails);
        }
    });
    (port, received)
}

fn serve(mut client: TcpStream, auth: &str, mails: &Sender<Mail>) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let mut commands = Vec::new();
    client.write_all(b"220 mail.test ESMTP\r\n")?;
    while let Some(line) = lines.next().transpose()? {
        let offers = format!("250-mail.test\r\n250-SIZE 1000000\r\n250 AUTH {auth}\r\n");
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if !auth.is_empty() => offers.as_str(),
            "AUTH" if line == "AUTH LOGIN" => "334 VXNlcm5hbWU6\r\n",
            // Name and password of AUTH LOGIN.
            "YQ==" => "334 UGFzc3dvcmQ6\r\n",
            "czNjcmV0" => "235 welcome\r\n",
            // The same in one.
            "AUTH" if line == "AUTH PLAIN AGEAczNjcmV0" => "235 welcome\r\n",
            "AUTH" => "535 5.7.8 wrong name or password\r\n",
            "RCPT" if line.contains("nobody") => "550 5.1.1 no such mailbox\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 2.0.0 fine\r\n",
        };
        client.write_all(answer.as_bytes())?;
        let is_data = line == "DATA";
        commands.push(line);
        if is_data {
            let mut text = String::new();
            while let Some(line) = lines.next().transpose()?.filter(|line| line != ".") {
                text.push_str(&line);
                text.push('\n');
            }
            let commands = std::mem::take(&mut commands);
            let _ = mails.send(Mail { commands, text });
            client.write_all(b"250 2.0.0 queued\r\n")?;
        }
    }
    Ok(())
}

/// What the body says: base64 whose lines have whole groups.
fn body(mail: &Mail) -> String {
    let (_, body) = mail.text.split_once("\n\n").expect("a header");
    let digit = |byte: u8| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            .iter()
            .position(|it| *it == byte)
    };
    let digits: Vec<usize> = body.bytes().filter_map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|group| {
        let bits = group
            .iter()
            .enumerate()
            .fold(0, |bits, (at, digit)| bits | (digit << (18 - 6 * at)));
        [16, 8, 0]
            .into_iter()
            .take(group.len() - 1)
            .map(move |shift| (bits >> shift) as u8)
            .collect::<Vec<u8>>()
    });
    String::from_utf8(bytes.collect()).expect("text")
}

fn start(rpm: &Rpm, place: &Place, listen: &Port, alerts: &Value, variable: Option<&str>) -> Ran {
    let app = json!({"name": "api", "script": fixture("no-listen.js"), "interpreter": node(22)});
    let file = json!({"apps": [app], "observe": {"listen": listen.number(), "alerts": alerts}});
    let path = place.write("site.json", &file.to_string());
    let mut command = rpm.command(["start".as_ref(), path.as_os_str()]);
    command.env_remove("RPM_SMTP");
    command.envs(variable.map(|server| ("RPM_SMTP", server)));
    Ran::from(command.output().expect("it runs"))
}

/// `alerts test` says what became of each mail, and nothing shows a password.
fn each_answer_is_shown(rpm: &Rpm, started: &Ran) {
    let shown = rpm.ok(["alerts"]);
    assert!(
        shown.contains("a@example.org b@example.org by smtp://127.0.0.1:"),
        "{shown}"
    );
    let tested = rpm.run(["alerts", "test"]);
    assert_eq!(
        tested.stdout.matches("it answered 2.0.0 queued").count(),
        3,
        "{tested:#?}"
    );
    for part in [
        "rule 3 (errored), ops@example.org by smtp://127.0.0.1:",
        "it refused AUTH: 535 5.7.8 wrong name or password",
        "it refused RCPT TO: 550 5.1.1 no such mailbox",
    ] {
        assert!(tested.stderr.contains(part), "{part}: {tested:#?}");
    }
    for secret in ["s3cret", "wr0ng"] {
        assert!(
            !format!("{shown}{tested:?}{started:?}").contains(secret),
            "{tested:#?}"
        );
    }
}

#[test]
fn a_mail_arrives_with_and_without_a_password() {
    let (rpm, place, listen) = (Rpm::new(), Place::new(), Port::reserve());
    let missing = start(
        &rpm,
        &place,
        &listen,
        &json!([{"on": "crash", "mail": "ops@example.org"}]),
        None,
    );
    assert_eq!(missing.code, Some(1), "{missing:#?}");
    assert!(
        missing.stderr.contains("give it `smtp`, or set RPM_SMTP"),
        "{missing:#?}"
    );
    let servers = ["", "PLAIN LOGIN", "LOGIN"].map(server);
    let url = |at: usize, user: &str| format!("smtp://{user}127.0.0.1:{}", servers[at].0);
    let alerts = json!([
        {"on": "crash", "mail": "ops@example.org", "from": "rpm@example.org"},
        {"on": "errored", "mail": ["a@example.org", "b@example.org"], "smtp": url(1, "a:s3cret@")},
        {"on": "errored", "mail": "ops@example.org", "smtp": url(2, "a:s3cret@")},
        {"on": "errored", "mail": "ops@example.org", "smtp": url(1, "a:wr0ng@")},
        {"on": "errored", "mail": "nobody@example.org", "smtp": url(0, "")},
    ]);
    let started = start(&rpm, &place, &listen, &alerts, Some(&url(0, "")));
    assert_eq!(started.code, Some(0), "{started:#?}");
    each_answer_is_shown(&rpm, &started);
    let mails = [0, 1, 2].map(|at| servers[at].1.recv_timeout(BOUND).expect("a mail"));
    assert_eq!(
        mails[0].commands[1..],
        ["MAIL FROM:<rpm@example.org>", "RCPT TO:<ops@example.org>", "DATA"]
    );
    assert!(
        mails[1].commands.contains(&"RCPT TO:<b@example.org>".to_owned()),
        "{:?}",
        mails[1]
    );
    for mail in &mails {
        assert!(body(mail).contains("this is how a message about"), "{mail:?}");
        assert!(mail.text.contains("\nSubject: =?utf-8?B?"), "{mail:?}");
    }

    // And by the process that tells.
    kill(rpm.process(0).pid.expect("it runs"));
    let mail = servers[0].1.recv_timeout(BOUND).expect("a mail");
    assert!(
        body(&mail).contains("api: crashed: killed by SIGKILL"),
        "{mail:?}"
    );
    assert!(!observed(&rpm).contains("s3cret"), "{}", observed(&rpm));
}

#[test]
fn a_mail_server_that_encrypts_must_be_who_it_says() {
    let (rpm, place, port, listen) = (Rpm::new(), Place::new(), Port::reserve(), Port::reserve());
    let [chain, key] = certificate(&place, "mail", "localhost");
    place.write("server.js", SERVER);
    let app = json!({
        "name": "mail", "script": "server.js", "interpreter": node(22), "instances": 1, "balance": "proxy", "protocol": "tcp",
        "tls_cert": chain, "tls_key": key, "env": {"PORT": port.number()},
    });
    let smtp = format!("smtps://a:s3cret@localhost:{port}");
    let alerts = json!([{"on": "crash", "mail": "ops@example.org", "smtp": smtp}]);
    let file = json!({"apps": [app], "observe": {"listen": listen.number(), "alerts": alerts}});
    place.write("site.json", &file.to_string());
    place.ok(&rpm, ["start", "site.json"]);
    let unknown = rpm.run(["alerts", "test"]);
    assert!(
        unknown.stderr.contains("invalid peer certificate"),
        "{unknown:#?}"
    );
    assert!(
        !place.path().join("heard").exists(),
        "nothing was said to a stranger"
    );
    let known = rpm
        .command(["alerts", "test"])
        .env("SSL_CERT_FILE", &chain)
        .output();
    let known = Ran::from(known.expect("it runs"));
    assert!(known.stdout.contains("it answered queued"), "{known:#?}");
    let heard = place.read("heard");
    assert!(
        heard.contains("\nAUTH PLAIN AGEAczNjcmV0\nMAIL FROM:<rpm@"),
        "{heard}"
    );
}
