//! Who is told: the keys of a rule that name receivers.

use rpm_wire::alerts::{Shape, Sink, SmtpServer};
use serde_json::Value;

use super::{Reader, template, web_host};

/// The most addresses that one rule sends mail to.
const MOST_ADDRESSES: usize = 20;

/// An address for mail: nothing in it can end a command of SMTP, or a field of a header.
fn address(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let (name, domain) = text.rsplit_once('@')?;
    let is_good = |char: char| char.is_ascii_graphic() && !"<>()[],;:\\\"@".contains(char);
    let is_address = !name.is_empty() && !domain.is_empty() && text.len() <= 254;
    (is_address && name.chars().chain(domain.chars()).all(is_good)).then(|| text.to_owned())
}

impl Reader<'_> {
    pub(super) fn sinks(&mut self) -> Vec<Sink> {
        let mut sinks = Vec::new();
        if let Some(value) = self.field("exec") {
            match value.as_str().filter(|line| !line.trim().is_empty()) {
                Some(line) => sinks.push(Sink::Exec {
                    command: line.to_owned(),
                    cwd: String::new(),
                }),
                None => self.wrong("exec", "a line for the shell"),
            }
        }
        match self.field("webhook").cloned() {
            Some(value) => sinks.extend(self.webhook(&value)),
            None => self.belong_to("webhook", &["shape", "key", "template"]),
        }
        match self.field("mail").cloned() {
            Some(value) => sinks.extend(self.mail(&value)),
            None => self.belong_to("mail", &["smtp", "from"]),
        }
        if ["webhook", "exec", "mail"]
            .iter()
            .all(|key| self.field(key).is_none())
        {
            let text = format!(
                "`{}` tells nobody: give it `webhook`, `mail` or `exec`",
                self.place
            );
            self.problems.push(text);
        }
        sinks
    }

    /// These keys mean nothing without another one, which is missing.
    fn belong_to(&mut self, whose: &str, keys: &[&str]) {
        for key in keys {
            if self.field(key).is_some() {
                let text = format!("`{}.{key}` belongs to `{whose}`, which is missing", self.place);
                self.problems.push(text);
            }
        }
    }

    fn mail(&mut self, value: &Value) -> Option<Sink> {
        let list = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let to: Option<Vec<String>> = list.iter().map(address).collect();
        let to = to.filter(|to| (1..=MOST_ADDRESSES).contains(&to.len()));
        if to.is_none() {
            self.wrong(
                "mail",
                "an address such as \"ops@example.org\", or a list of them",
            );
        }
        let from = self.field("from").map(address);
        if from == Some(None) {
            self.wrong("from", "an address such as \"rpm@example.org\"");
        }
        let smtp = self
            .field("smtp")
            .map(|value| value.as_str().unwrap_or_default().to_owned());
        if smtp.as_ref().is_some_and(|url| SmtpServer::parse(url).is_none()) {
            // What was found may have a password.
            let text = format!(
                "`{}.smtp` must be an address such as smtp://USER:PASSWORD@HOST:587 or smtps://HOST; in name and password @ is %40, : is %3A and % is %25",
                self.place
            );
            self.problems.push(text);
        }
        Some(Sink::Mail {
            to: to?,
            from: from.flatten(),
            smtp: smtp.unwrap_or_default(),
        })
    }

    fn webhook(&mut self, value: &Value) -> Option<Sink> {
        let url = value.as_str().unwrap_or_default();
        let Some(host) = web_host(url) else {
            // What was found may be a secret.
            let text = format!(
                "`{}.webhook` must be an address that begins with http:// or https://, without a name and a password",
                self.place
            );
            self.problems.push(text);
            return None;
        };
        let shape = match self
            .field("shape")
            .map(|value| value.as_str().unwrap_or_default())
        {
            None => Shape::of_host(host),
            Some(name) => match Shape::ALL.iter().find(|(known, _)| *known == name) {
                Some((_, shape)) => *shape,
                None => {
                    self.wrong(
                        "shape",
                        &format!("one of {}", Shape::ALL.map(|(name, _)| name).join(", ")),
                    );
                    return None;
                }
            },
        };
        let template = self.template();
        if template.is_some() && self.field("shape").is_some() {
            let text = format!("`{}.template` is the whole body: leave `shape` out", self.place);
            self.problems.push(text);
        }
        let shape = if template.is_some() { Shape::Json } else { shape };
        let key = self.field("key").and_then(Value::as_str).map(str::to_owned);
        if (shape == Shape::Pagerduty) != key.as_ref().is_some_and(|key| !key.is_empty()) {
            let text = format!(
                "`{}.key` is the integration key of PagerDuty: the shape \"pagerduty\" needs it, and no other has it",
                self.place
            );
            self.problems.push(text);
            return None;
        }
        Some(Sink::Webhook {
            url: url.to_owned(),
            shape,
            key,
            template,
        })
    }

    fn template(&mut self) -> Option<String> {
        match template::read(self.field("template")?) {
            Ok(template) => Some(template),
            Err(wrong) => {
                let place = self.place;
                let wrong = wrong
                    .into_iter()
                    .map(|wrong| format!("`{place}.template`{wrong}"));
                self.problems.extend(wrong);
                None
            }
        }
    }
}
