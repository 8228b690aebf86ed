//! What is secret of a receiver, and may stand in what it says: header fields, and the address behind the host.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use rpm_wire::forward::Http;

/// Words of header fields, and parts of an address, are hidden from this length on, in bytes. Shorter ones are found everywhere.
const SECRET: usize = 6;

/// Texts that are not shown, the longest first.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn of(http: &Http) -> Secrets {
        let mut found: Vec<String> = http.headers.values().cloned().collect();
        let values = http.headers.values();
        found.extend(words(values.flat_map(|value| value.split_whitespace())));
        let rest = http.url.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let fields = query
            .split(['&', ';'])
            .map(|field| field.split_once('=').map_or(field, |(_, value)| value));
        let parts = [rest, path, query]
            .into_iter()
            .chain(path.split('/'))
            .chain(fields);
        for part in words(parts) {
            let spaced = part.replace('+', " ");
            for form in [part.as_str(), spaced.as_str()] {
                found.extend(percent_decode_str(form).decode_utf8().map(Cow::into_owned));
            }
            found.push(part);
        }
        found.retain(|text| !text.is_empty());
        found.sort_by_key(|text| std::cmp::Reverse(text.len()));
        found.dedup();
        Secrets(found)
    }

    /// The text without them.
    pub(super) fn hide(&self, text: String) -> String {
        self.0
            .iter()
            .fold(text, |text, secret| text.replace(secret.as_str(), "…"))
    }
}

fn words<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<String> {
    texts
        .filter(|text| text.len() >= SECRET)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_a_receiver_repeats_is_hidden_in_every_form() {
        let http = Http {
            url: "https://a.test:3100/push/s3cret%2Fpath?token=s3cret%20query&k=s3cret-two".to_owned(),
            headers: BTreeMap::from([("authorization".to_owned(), "Bearer s3cret-header".to_owned())]),
        };
        let secrets = Secrets::of(&http);
        for said in [
            "Cannot POST /push/s3cret%2Fpath?token=s3cret%20query&k=s3cret-two",
            "no handler found for uri [/push/s3cret/path?token=s3cret query&k=s3cret-two]",
            "no route: /push/s3cret%2Fpath",
            "not found: push/s3cret/path",
            "bad token s3cret query",
            "bad token s3cret%20query",
            "{\"query\":\"token=s3cret%20query\\u0026k=s3cret-two\"}",
            "who is Bearer s3cret-header, or s3cret-header?",
        ] {
            let shown = secrets.hide(said.to_owned());
            assert!(!shown.contains("s3cret") && shown.contains('…'), "{shown}");
        }
        let without = Http {
            url: "http://a.test/".to_owned(),
            headers: BTreeMap::new(),
        };
        assert_eq!(Secrets::of(&without).hide("a / b".to_owned()), "a / b");
    }
}
