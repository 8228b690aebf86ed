//! Who is told by alerts, and how.

use serde::{Deserialize, Serialize};

/// What a template of a webhook may have in braces within its strings.
pub const PLACEHOLDERS: [&str; 5] = ["text", "app", "on", "state", "host"];

/// What the body of a webhook looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Everything that is known, as an object of our own.
    Json,
    /// An incoming webhook of Slack, and of what understands the same (Mattermost, Rocket.Chat).
    Slack,
    /// A webhook of Discord.
    Discord,
    /// A webhook of Microsoft Teams (a workflow that posts a card).
    Teams,
    /// Events API v2 of PagerDuty; needs `key`.
    Pagerduty,
}

impl Shape {
    /// All of them, by name.
    pub const ALL: [(&str, Shape); 5] = [
        ("json", Shape::Json),
        ("slack", Shape::Slack),
        ("discord", Shape::Discord),
        ("teams", Shape::Teams),
        ("pagerduty", Shape::Pagerduty),
    ];

    /// The one that the host of an URL understands.
    #[must_use]
    pub fn of_host(host: &str) -> Shape {
        let ends = |suffix: &str| host == suffix || host.ends_with(&format!(".{suffix}"));
        match () {
            () if ends("slack.com") => Shape::Slack,
            () if ends("discord.com") || ends("discordapp.com") => Shape::Discord,
            () if ends("office.com") || ends("logic.azure.com") || ends("powerplatform.com") => Shape::Teams,
            () if ends("pagerduty.com") => Shape::Pagerduty,
            () => Shape::Json,
        }
    }
}

/// Who is told.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Sink {
    /// An HTTP POST.
    Webhook {
        /// `http://` or `https://`. Often a secret.
        url: String,
        /// The form of the body.
        shape: Shape,
        /// The integration key of PagerDuty.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The body in the place of that form: JSON, whose strings have [`PLACEHOLDERS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<String>,
    },
    /// A mail.
    Mail {
        /// Who gets it.
        to: Vec<String>,
        /// Whose it is; a name at this machine if it does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The server, as [`SmtpServer::parse`] takes it. It can have a password.
        smtp: String,
    },
    /// A line for `/bin/sh`.
    Exec {
        /// The line.
        command: String,
        /// Where it runs.
        cwd: String,
    },
}

/// Addresses and keys are secrets, and so may a command line have some: none is shown.
impl std::fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl Sink {
    /// As it may be shown: without what is secret in an address.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Sink::Webhook { url, .. } => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}/…")
            }
            Sink::Mail { to, smtp, .. } => {
                let server = SmtpServer::parse(smtp);
                let server = server.map_or_else(|| "no server".to_owned(), |server| server.shown());
                format!("{} by {server}", to.join(" "))
            }
            Sink::Exec { command, .. } => {
                // Variables before it may be secrets.
                let mut words = command.split_whitespace();
                let program = words.find(|word| !word.contains('=')).unwrap_or_default();
                match program.len() == command.trim().len() {
                    true => program.to_owned(),
                    false => format!("{program} …"),
                }
            }
        }
    }
}

/// A mail server, as the address `smtp://[USER:PASSWORD@]HOST[:PORT]` names it; `smtps://` encrypts from the first byte on.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpServer {
    /// Name or address, without brackets.
    pub host: String,
    /// 587 with a password and 25 without one, or 465, if the address does not say it.
    pub port: u16,
    /// It is encrypted from the first byte on.
    pub is_tls: bool,
    /// Name and password.
    pub user: Option<(String, String)>,
}

impl std::fmt::Debug for SmtpServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.shown())
    }
}

impl SmtpServer {
    /// The server that an address names; `None` if it names none.
    #[must_use]
    pub fn parse(url: &str) -> Option<SmtpServer> {
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = match scheme {
            "smtp" => false,
            "smtps" => true,
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => {
                let (user, password) = user.split_once(':')?;
                (Some((decoded(user)?, decoded(password)?)), authority)
            }
            None => (None, rest),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let usual = match (is_tls, &user) {
            (true, _) => 465,
            (false, Some(_)) => 587,
            (false, None) => 25,
        };
        let port = port.map_or(Some(usual), |port| port.parse().ok().filter(|port| *port > 0))?;
        let is_name = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_' | ':');
        (!host.is_empty() && host.chars().all(is_name)).then(|| SmtpServer {
            host: host.to_owned(),
            port,
            is_tls,
            user,
        })
    }

    /// As it may be shown.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = if self.is_tls { "smtps" } else { "smtp" };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("{scheme}://{host}:{}", self.port)
    }
}

/// A part of an address, whose `%40` and the like are characters.
fn decoded(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(first);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_not_shown() {
        let webhook = |url: &str| Sink::Webhook {
            url: url.to_owned(),
            shape: Shape::Json,
            key: Some("k3y".to_owned()),
            template: None,
        };
        let mail = |smtp: &str| Sink::Mail {
            to: vec!["ops@example.org".to_owned()],
            from: None,
            smtp: smtp.to_owned(),
        };
        let exec = |command: &str| Sink::Exec {
            command: command.to_owned(),
            cwd: "/".to_owned(),
        };
        for (sink, shown) in [
            (
                webhook("https://hooks.slack.com/services/T/B/s3cret"),
                "https://hooks.slack.com/…",
            ),
            (webhook("http://user:s3cret@a.test?t=s3cret"), "http://a.test/…"),
            (
                mail("smtp://user%40a:s3cret@mail.test"),
                "ops@example.org by smtp://mail.test:587",
            ),
            (mail("s3cret"), "ops@example.org by no server"),
            (exec("./page.sh"), "./page.sh"),
            (exec("curl -H 'token: s3cret' x"), "curl …"),
            (exec("TOKEN=s3cret ./page.sh"), "./page.sh …"),
        ] {
            assert_eq!(sink.shown(), shown);
            assert_eq!(format!("{sink:?}"), shown);
        }
    }

    #[test]
    fn the_host_says_what_it_understands() {
        for (host, shape) in [
            ("hooks.slack.com", Shape::Slack),
            ("discord.com", Shape::Discord),
            ("x.webhook.office.com", Shape::Teams),
            ("events.pagerduty.com", Shape::Pagerduty),
            ("notslack.com", Shape::Json),
            ("localhost", Shape::Json),
        ] {
            assert_eq!(Shape::of_host(host), shape, "{host}");
        }
    }

    #[test]
    fn a_mail_server_has_an_address() {
        for (url, shown, user) in [
            ("smtp://mail.test", Some("smtp://mail.test:25"), None),
            ("smtp://mail.test/", Some("smtp://mail.test:25"), None),
            (
                "smtp://a:b@mail.test",
                Some("smtp://mail.test:587"),
                Some(("a", "b")),
            ),
            (
                "smtps://a%40c:b%3a%40@[::1]:99",
                Some("smtps://[::1]:99"),
                Some(("a@c", "b:@")),
            ),
            ("smtps://mail.test", Some("smtps://mail.test:465"), None),
            ("smtp://a@mail.test", None, None),
            ("smtp://", None, None),
            ("smtp://a:b%4@mail.test", None, None),
            ("smtp://a:b%0a@mail.test", None, None),
            ("smtp://mail.test:0", None, None),
            ("smtp://mail.test:70000", None, None),
            ("smtp://mail test", None, None),
            ("http://mail.test", None, None),
            ("mail.test:25", None, None),
        ] {
            let server = SmtpServer::parse(url);
            assert_eq!(server.as_ref().map(SmtpServer::shown).as_deref(), shown, "{url}");
            let found = server.and_then(|server| server.user);
            let user = user.map(|(user, password): (&str, &str)| (user.to_owned(), password.to_owned()));
            assert_eq!(found, user, "{url}");
        }
    }
}
