//! `observe.logs` of a file: where the logs of the apps are sent.

use std::collections::BTreeMap;

use rpm_wire::forward::{Destination, Http, JOURNALD_SOCKET, MAX_DESTINATIONS, Receiver, Syslog};
use serde_json::{Map, Value};

use crate::alerts::{names, web_host};
use crate::ecosystem::{shown, unknown};
use crate::nearest::nearest;

/// The keys of a destination.
const KEYS: [&str; 10] = [
    "to", "name", "url", "address", "apps", "labels", "headers", "index", "from", "gzip",
];
/// The index of Elasticsearch, if a file does not say it.
const USUAL_INDEX: &str = "rpm-logs";
/// The most labels, and header fields, of a destination.
const MOST_FIELDS: usize = 50;
/// Labels that every record has already.
const KNOWN_LABELS: [&str; 5] = ["app", "host", "id", "level", "stream"];
/// The longest name, in bytes.
const NAME_BYTES: usize = 200;
const EXAMPLE: &str = "{to: \"loki\", url: \"http://127.0.0.1:3100\"}";

/// Reads the value of the key, which is not null.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub(crate) fn read(value: &Value) -> Result<Vec<Destination>, Vec<String>> {
    let Value::Array(list) = value else {
        return Err(vec![format!(
            "`observe.logs` must be a list of destinations, such as [{EXAMPLE}], not {}",
            shown(value)
        )]);
    };
    if list.len() > MAX_DESTINATIONS {
        return Err(vec![format!(
            "`observe.logs` has {} destinations; it may have {MAX_DESTINATIONS}",
            list.len()
        )]);
    }
    let (mut found, mut problems) = (Vec::<Destination>::new(), Vec::new());
    for (number, value) in list.iter().enumerate() {
        let place = format!("observe.logs[{number}]");
        let Value::Object(fields) = value else {
            // It may be an address, which can be a secret.
            problems.push(format!("`{place}` must be an object, such as {EXAMPLE}"));
            continue;
        };
        match destination(&place, fields) {
            Ok(read) if found.iter().any(|other| other.name == read.name) => problems.push(format!(
                "`{place}` has the same name as another one, {:?}; give it another `name`",
                read.name
            )),
            Ok(read) => found.push(read),
            Err(wrong) => problems.extend(wrong),
        }
    }
    match problems.is_empty() {
        true => Ok(found),
        false => Err(problems),
    }
}

/// What is read of a destination, and what is wrong with it.
pub(crate) struct Reader<'a> {
    pub(crate) place: &'a str,
    pub(crate) fields: &'a Map<String, Value>,
    pub(crate) problems: Vec<String>,
}

fn destination(place: &str, fields: &Map<String, Value>) -> Result<Destination, Vec<String>> {
    let mut reader = Reader {
        place,
        fields,
        problems: Vec::new(),
    };
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        reader.problems.push(format!("`{place}`: {}", unknown(key, KEYS)));
    }
    let to = reader.receiver();
    let apps = reader.apps();
    let expected = format!(
        "names of letters, digits, _ and . (other than {}, and what begins with __) with texts",
        KNOWN_LABELS.join(", ")
    );
    let labels = reader.texts("labels", is_label, &expected);
    let from_end = reader.begins_at_end();
    let gzip = reader.gzip();
    let name = to.as_ref().map(|to| reader.name(to)).unwrap_or_default();
    match (to, reader.problems.is_empty()) {
        (Some(to), true) => Ok(Destination {
            name,
            to,
            apps,
            labels,
            from_end,
            gzip,
        }),
        _ => Err(reader.problems),
    }
}

impl Reader<'_> {
    pub(crate) fn field(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn wrong(&mut self, key: &str, expected: &str) {
        let found = self.fields.get(key).map_or_else(|| "nothing".to_owned(), shown);
        let place = self.place;
        self.problems
            .push(format!("`{place}.{key}` must be {expected}, not {found}"));
    }

    /// What was found may be a secret.
    fn wrong_secret(&mut self, key: &str, expected: &str) {
        self.problems
            .push(format!("`{}.{key}` must be {expected}", self.place));
    }

    fn receiver(&mut self) -> Option<Receiver> {
        let kind = self
            .field("to")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !Receiver::KINDS.contains(&kind.as_str()) {
            let expected = match nearest(&kind, Receiver::KINDS) {
                Some(near) => format!("who gets the logs (did you mean {near:?}?)"),
                None => format!("one of {}", Receiver::KINDS.join(", ")),
            };
            self.wrong("to", &expected);
            return None;
        }
        let foreign: &[&str] = match kind.as_str() {
            "syslog" | "journald" => &["url", "headers", "index", "gzip"],
            "elasticsearch" => &["address"],
            _ => &["address", "index"],
        };
        let place = self.place;
        let found = foreign.iter().filter(|key| self.field(key).is_some());
        let found = found.map(|key| format!("`{place}.{key}`: {kind:?} has no such key; leave it out"));
        let found: Vec<String> = found.collect();
        self.problems.extend(found);
        if kind == "syslog" {
            return Some(Receiver::Syslog(self.syslog()?));
        }
        if kind == "journald" {
            return Some(Receiver::Journald(self.journald()?));
        }
        let http = self.http()?;
        match kind.as_str() {
            "loki" => Some(Receiver::Loki(http)),
            "otlp" => Some(Receiver::Otlp(http)),
            _ => Some(Receiver::Elasticsearch {
                http,
                index: self.index()?,
            }),
        }
    }

    pub(crate) fn http(&mut self) -> Option<Http> {
        let url = self
            .field("url")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if web_host(&url).is_none() {
            self.wrong_secret(
                "url",
                "an address that begins with http:// or https://, without a name and a password (`headers` may have them)",
            );
            return None;
        }
        if !has_port_or_none(&url) {
            self.wrong_secret(
                "url",
                "an address whose port, if it has one, is a number from 1 to 65535",
            );
            return None;
        }
        let headers = self.texts("headers", is_token, "names of header fields with texts");
        Some(Http { url, headers })
    }

    fn index(&mut self) -> Option<String> {
        let name = match self.field("index") {
            None => return Some(USUAL_INDEX.to_owned()),
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
        };
        let may =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_.".contains(letter);
        if name.is_empty()
            || name.len() > NAME_BYTES
            || name.starts_with(['-', '_', '.'])
            || !name.chars().all(may)
        {
            self.wrong("index", "the name of an index: small letters, digits, -, _ and .");
            return None;
        }
        Some(name)
    }

    fn syslog(&mut self) -> Option<Syslog> {
        let address = self.field("address").and_then(Value::as_str).unwrap_or_default();
        let host = |rest: &str| {
            let (host, port) = rest.rsplit_once(':')?;
            let is_good = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            (is_good && rest.bytes().all(|byte| byte.is_ascii_graphic())).then(|| rest.to_owned())
        };
        let read = match address.split_once(':') {
            Some(("udp", rest)) => rest.strip_prefix("//").and_then(host).map(Syslog::Udp),
            Some(("tcp", rest)) => rest.strip_prefix("//").and_then(host).map(Syslog::Tcp),
            Some(("unix", path)) if path.starts_with('/') => Some(Syslog::Unix(path.to_owned())),
            _ => None,
        };
        if read.is_none() {
            self.wrong("address", "udp://HOST:PORT, tcp://HOST:PORT or unix:/PATH");
        }
        read
    }

    fn journald(&mut self) -> Option<String> {
        let path = match self.field("address") {
            None => return Some(JOURNALD_SOCKET.to_owned()),
            Some(value) => value.as_str().and_then(|text| text.strip_prefix("unix:")),
        };
        let path = path.filter(|path| path.starts_with('/')).map(str::to_owned);
        if path.is_none() {
            self.wrong("address", "unix:/PATH, the socket of a journald");
        }
        path
    }

    fn gzip(&mut self) -> bool {
        match self.field("gzip") {
            None => false,
            Some(Value::Bool(gzip)) => *gzip,
            Some(_) => {
                self.wrong("gzip", "true or false");
                false
            }
        }
    }

    fn apps(&mut self) -> Vec<String> {
        let Some(value) = self.field("apps") else {
            return Vec::new();
        };
        names(value).unwrap_or_else(|| {
            self.wrong("apps", "the name of an app, or a list of names");
            Vec::new()
        })
    }

    /// An object of texts. Numbers and switches are what they look like.
    fn texts(&mut self, key: &str, is_name: fn(&str) -> bool, expected: &str) -> BTreeMap<String, String> {
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => None,
        };
        let is_plain = |text: &str| text.len() <= 8192 && !text.chars().any(char::is_control);
        let read = match self.field(key) {
            None => return BTreeMap::new(),
            Some(Value::Object(fields)) if fields.len() <= MOST_FIELDS => fields
                .iter()
                .map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect::<Option<BTreeMap<String, String>>>(),
            Some(_) => None,
        };
        let good = read.filter(|read| read.iter().all(|(name, text)| is_name(name) && is_plain(text)));
        good.unwrap_or_else(|| {
            self.wrong_secret(key, &format!("an object of {expected}, at most {MOST_FIELDS}"));
            BTreeMap::new()
        })
    }

    fn begins_at_end(&mut self) -> bool {
        match self.field("from").map(|value| value.as_str().unwrap_or_default()) {
            None | Some("start") => false,
            Some("end") => true,
            Some(_) => {
                self.wrong("from", "\"start\" or \"end\"");
                false
            }
        }
    }

    /// By default the kind and the host, so that positions are kept when anything else changes.
    fn name(&mut self, to: &Receiver) -> String {
        let name = match self.field("name") {
            None if matches!(to, Receiver::Journald(_)) => return to.kind().to_owned(),
            None => {
                let address = to.shown();
                let host = address
                    .rsplit('/')
                    .next()
                    .filter(|_| !address.starts_with("unix:"));
                return format!("{}-{}", to.kind(), host.unwrap_or(&address));
            }
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
        };
        if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            self.wrong("name", "a text");
        }
        name
    }
}

fn is_label(name: &str) -> bool {
    let may = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '.';
    let is_known = KNOWN_LABELS.contains(&name) || name.replace('.', "_").starts_with("__");
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(may)
        && !is_known
}

/// True if what stands behind the host of an address can be its port, and nothing in the address has to be escaped.
fn has_port_or_none(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let behind = match authority.strip_prefix('[') {
        Some(literal) => literal.split_once(']').map(|(_, behind)| behind),
        None => Some(authority.find(':').map_or("", |at| &authority[at..])),
    };
    let is_port = |behind: &str| match behind.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok_and(|port| port > 0),
        None => behind.is_empty(),
    };
    behind.is_some_and(is_port) && !url.contains(['<', '>', '"', '{', '}', '|', '\\', '^', '`'])
}

/// A name of a header field (RFC 9110).
fn is_token(name: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_ours = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
    ];
    !name.is_empty() && name.bytes().all(may) && !is_ours.contains(&name.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests;
