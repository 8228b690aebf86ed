//! Lines as Node 18 to 26 and Bun 1.4 send them, and lines that nobody should.

use serde_json::json;

use super::*;

fn decode(bytes: &[u8]) -> Vec<Result<FromWorker, Malformed>> {
    let mut decoder = Decoder::new();
    decoder.feed(bytes);
    drain(&mut decoder)
}

fn drain(decoder: &mut Decoder) -> Vec<Result<FromWorker, Malformed>> {
    std::iter::from_fn(|| decoder.next()).collect()
}

fn one(line: &str) -> FromWorker {
    let mut all = decode(format!("{line}\n").as_bytes());
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).expect(line)
}

fn query(line: &str) -> QueryServer {
    match one(line) {
        FromWorker::QueryServer(query) => query,
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_listen_of_node_20() {
    let query = query(
        r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":3999,"addressType":4,"backlog":0,"seq":1}"#,
    );
    let expected = QueryServer {
        seq: 1,
        address: None,
        port: Some(3999),
        address_type: AddressType::V4,
        fd: None,
        index: 0,
        flags: 0,
        backlog: None,
        data: None,
    };
    assert_eq!(query, expected);
    assert_eq!(query.key(), "null:3999:4:undefined:0");
}

#[test]
fn keys_are_those_of_node_cluster() {
    let cases = [
        (
            r#""index":2,"data":null,"address":"::","port":0,"addressType":6,"flags":1,"backlog":77,"seq":3"#,
            ":::0:6:undefined:2",
        ),
        (
            r#""index":0,"data":null,"address":"/tmp/x.sock","port":-1,"addressType":-1,"backlog":0,"seq":1"#,
            "/tmp/x.sock:-1:-1:undefined:0",
        ),
        (
            r#""index":0,"data":null,"address":null,"port":null,"addressType":null,"fd":0,"backlog":0,"seq":2"#,
            "null:null:null:0:0",
        ),
        (
            r#""index":0,"data":null,"address":"0.0.0.0","port":"4000","addressType":"udp4","fd":-1,"flags":0,"seq":4"#,
            "0.0.0.0:4000:udp4:-1:0",
        ),
        (
            r#""index":0,"data":null,"address":"::","addressType":"udp6","fd":-1,"flags":1,"seq":5"#,
            ":::undefined:udp6:-1:0",
        ),
    ];
    for (fields, key) in cases {
        let line = format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer",{fields}}}"#);
        assert_eq!(query(&line).key(), key);
    }
}

#[test]
fn backlog_flags_and_data_of_a_query() {
    let line = |extra: &str| {
        format!(
            r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"address":null,"port":1,"addressType":6,"seq":1{extra}}}"#
        )
    };
    assert_eq!(query(&line(r#","backlog":false"#)).backlog, None);
    assert_eq!(query(&line(r#","backlog":5"#)).backlog, Some(5));
    assert!(query(&line(r#","flags":1"#)).ipv6_only());
    assert!(!query(&line(r#","flags":4"#)).ipv6_only());
    let data = query(&line(r#","data":{"ticketKeys":"00ff"}"#)).data;
    assert_eq!(data, Some(json!({"ticketKeys": "00ff"})));
}

#[test]
fn the_other_messages() {
    assert_eq!(
        one(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#),
        FromWorker::Online
    );
    assert_eq!(
        one(
            r#"{"cmd":"NODE_CLUSTER","act":"listening","index":1,"data":null,"address":"0.0.0.0","port":51133,"addressType":"udp4","fd":-1,"flags":0,"seq":3}"#
        ),
        FromWorker::Listening {
            address: Some("0.0.0.0".to_owned()),
            port: Some(51133),
            address_type: AddressType::Udp4,
            index: Some(1),
            seq: Some(3)
        }
    );
    assert_eq!(
        one(r#"{"cmd":"NODE_CLUSTER","act":"close","key":"null:3999:4:undefined:0","seq":3}"#),
        FromWorker::Close {
            key: "null:3999:4:undefined:0".to_owned(),
            seq: Some(3)
        }
    );
    assert_eq!(
        one(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":4}"#),
        FromWorker::ExitedAfterDisconnect { seq: 4 }
    );
    assert_eq!(
        one(r#"{"cmd":"NODE_CLUSTER","ack":0,"accepted":true,"seq":3}"#),
        FromWorker::Ack {
            seq: 0,
            accepted: Some(true)
        }
    );
    assert_eq!(one(r#"{"cmd":"NODE_HANDLE_ACK"}"#), FromWorker::HandleAck);
    assert_eq!(one(r#"{"cmd":"NODE_HANDLE_NACK"}"#), FromWorker::HandleNack);
    assert_eq!(
        one(r#"{"cmd":"NODE_HANDLE","type":"net.Server","msg":{"my":"h"}}"#),
        FromWorker::Handle {
            message: json!({"my": "h"})
        }
    );
    assert_eq!(
        one(r#"{"cmd":"NODE_X","a":1}"#),
        FromWorker::Internal {
            cmd: "NODE_X".to_owned()
        }
    );
    assert_eq!(
        one(r#"{"cmd":"NODE_CLUSTER","act":"new"}"#),
        FromWorker::Internal {
            cmd: "NODE_CLUSTER".to_owned()
        }
    );
}

#[test]
fn what_the_program_sends_is_not_the_runtimes() {
    assert_eq!(one(r#""ready""#), FromWorker::Ready);
    for line in [
        r#""a\nb""#,
        "null",
        "5",
        "[1]",
        r#"{"cmd":"NODE_"}"#,
        r#"{"cmd":"NODEX"}"#,
        r#"{"cmd":1}"#,
    ] {
        let value = serde_json::from_str(line).expect(line);
        assert_eq!(one(line), FromWorker::Message(value));
    }
}

#[test]
fn bun_shows_its_dialect() {
    let mut decoder = Decoder::new();
    assert_eq!(decoder.dialect(), Dialect::Node);
    decoder.feed(b"\"ready\"\n\x02{\"cmd\":\"NODE_CLUSTER\",\"act\":\"listening\",\"port\":3998,\"data\":null,\"address\":null,\"addressType\":4}\n");
    assert_eq!(decoder.next(), Some(Ok(FromWorker::Ready)));
    let listening = FromWorker::Listening {
        address: None,
        port: Some(3998),
        address_type: AddressType::V4,
        index: None,
        seq: None,
    };
    assert_eq!(decoder.next(), Some(Ok(listening)));
    assert_eq!(decoder.next(), None);
    assert_eq!(decoder.dialect(), Dialect::Bun);
}

#[test]
fn bad_lines_are_reported_with_a_bounded_excerpt_and_the_next_line_is_read() {
    let long = "x".repeat(5000);
    let all = decode(format!("{long}\n\n\u{1}\n\"ready\"\n").as_bytes());
    assert_eq!(all.len(), 4);
    for bad in &all[..3] {
        let text = bad.as_ref().expect_err("malformed").to_string();
        assert!(text.starts_with("not JSON") && text.len() < 400, "{text}");
    }
    assert_eq!(all[3], Ok(FromWorker::Ready));
}

#[test]
fn a_cluster_message_of_the_wrong_shape_names_the_field() {
    let cases = [
        (
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"port":1,"addressType":4}"#,
            "seq",
        ),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":-1,"port":1,"addressType":4,"seq":1}"#,
            "index",
        ),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"port":{},"addressType":4,"seq":1}"#,
            "port",
        ),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"port":1,"addressType":5,"seq":1}"#,
            "addressType",
        ),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"listening","address":7,"port":1,"addressType":4}"#,
            "address",
        ),
        (r#"{"cmd":"NODE_CLUSTER","act":"close"}"#, "key"),
        (r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect"}"#, "seq"),
        (r#"{"cmd":"NODE_CLUSTER","ack":"1"}"#, "ack"),
    ];
    for (line, expected) in cases {
        match decode(format!("{line}\n").as_bytes()).remove(0) {
            Err(Malformed::Field { field, .. }) => assert_eq!(field, expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_line_too_long_is_skipped_once_and_never_held() {
    let mut decoder = Decoder::new();
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..200 {
        decoder.feed(&piece);
        assert!(decoder.partial.len() <= MAX_LINE && decoder.partial.capacity() <= 2 * MAX_LINE);
    }
    assert!(decoder.partial.capacity() <= KEPT_CAPACITY);
    decoder.feed(b"xx\n\"ready\"\n");
    assert_eq!(
        drain(&mut decoder),
        [Err(Malformed::TooLong), Ok(FromWorker::Ready)]
    );
}

#[test]
fn the_limit_is_exact_however_the_line_arrives() {
    let fits = format!("\"{}\"", "y".repeat(MAX_LINE - 2));
    let over = format!("\"{}\"", "y".repeat(MAX_LINE - 1));
    for piece in [MAX_LINE * 2, 65_536, 1_000_003] {
        for (line, ok) in [(&fits, true), (&over, false)] {
            let mut decoder = Decoder::new();
            let bytes = format!("{line}\n\"ready\"\n");
            bytes
                .as_bytes()
                .chunks(piece)
                .for_each(|chunk| decoder.feed(chunk));
            let all = drain(&mut decoder);
            assert_eq!(all.len(), 2);
            assert_eq!(all[0].is_ok(), ok);
            assert_eq!(all[1], Ok(FromWorker::Ready));
            assert!(decoder.partial.capacity() <= KEPT_CAPACITY);
        }
    }
}

/// xorshift64*: the same bytes on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const SEEDS: &[&str] = &[
    r#"{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":{"a":[1]},"address":"é","port":-1,"addressType":"udp4","fd":-1,"seq":1}"#,
    r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","ack":1}}"#,
    r#"{"cmd":"NODE_CLUSTER","act":"listening","address":null,"port":1,"addressType":4}"#,
    "\"ready\"",
    "\u{2}{\"cmd\":\"NODE_CLUSTER\",\"act\":\"close\",\"key\":\"k\"}",
];

/// Lines of the protocol with bytes changed, dropped, repeated and added.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(4) {
        bytes.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes());
        bytes.push(b'\n');
    }
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.below(256) as u8,
            1 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            2 => bytes.insert(at, b'\n'),
            _ => bytes.extend_from_within(at..),
        }
        if bytes.is_empty() {
            bytes.push(b'"');
        }
    }
    bytes
}

#[test]
fn any_bytes_in_any_pieces_give_the_same_messages_and_no_panic() {
    for seed in 1..=20_000 {
        let mut random = Random(seed);
        let bytes = if seed % 4 == 0 {
            (0..random.below(300)).map(|_| random.below(256) as u8).collect()
        } else {
            mutated(&mut random)
        };
        let whole = decode(&bytes);
        assert_eq!(
            whole.len(),
            bytes.iter().filter(|&&byte| byte == b'\n').count(),
            "seed {seed}"
        );
        let mut decoder = Decoder::new();
        let mut split = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + random.below(rest.len()));
            decoder.feed(piece);
            split.extend(drain(&mut decoder));
            rest = tail;
        }
        assert_eq!(whole, split, "seed {seed}");
        for malformed in whole.iter().filter_map(|result| result.as_ref().err()) {
            assert!(malformed.to_string().len() < 2000, "seed {seed}");
        }
    }
}

#[test]
fn encoders_write_what_node_expects() {
    let parsed = |bytes: &[u8]| -> serde_json::Value {
        assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(bytes.last(), Some(&b'\n'));
        serde_json::from_slice(bytes).expect("JSON")
    };
    let data = json!({"ticketKeys": "00"});
    let lent = reply_server(
        1,
        "null:80:4:undefined:0",
        ServerReply::Lend(Handle::Stream),
        Some(&data),
    );
    assert_eq!(
        parsed(&lent),
        json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {
            "cmd": "NODE_CLUSTER", "ack": 1, "key": "null:80:4:undefined:0", "errno": 0, "data": data}})
    );
    let lent = reply_server(2, "k", ServerReply::Lend(Handle::Datagram), None);
    assert_eq!(parsed(&lent)["type"], "dgram.Native");
    assert_eq!(parsed(&lent)["msg"]["data"], json!(null));
    for errno in [98, -98] {
        assert_eq!(
            parsed(&reply_server(3, "k", ServerReply::Refuse(errno), Some(&data))),
            json!({"cmd": "NODE_CLUSTER", "ack": 3, "key": "k", "errno": -98, "data": data})
        );
    }
    assert_eq!(
        parsed(&newconn(9, "k")),
        json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {
            "cmd": "NODE_CLUSTER", "act": "newconn", "seq": 9, "key": "k"}})
    );
    assert_eq!(
        parsed(&ping()),
        json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {}})
    );
    assert_eq!(parsed(&handle_ack()), json!({"cmd": "NODE_HANDLE_ACK"}));
    assert_eq!(
        parsed(&ack(4, Dialect::Node)),
        json!({"cmd": "NODE_CLUSTER", "ack": 4})
    );
    assert_eq!(ack(4, Dialect::Bun)[0], 0x02);
    assert_eq!(ack(4, Dialect::Bun)[1..], ack(4, Dialect::Node));
    assert_eq!(parsed(&message(&json!("a\nb"))), json!("a\nb"));
}
