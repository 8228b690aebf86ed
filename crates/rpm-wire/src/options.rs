//! Options of apps: all that the ecosystem file, the command line, the API and the documentation know of each of them.
//!
//! `options!` turns a table of options into a type of the API: the fields, their defaults, a method that sets the field
//! of an option, and the list of the options, from which the parser of ecosystem files (`rpm-spec`), the arguments of `rpm start`
//! (`rpm-cli`), the JSON Schema and the tables of the documentation are made.

/// What kind of value an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`; on the command line it has no value.
    Switch,
    /// A whole number in this range.
    Number(i64, i64),
    /// A part of a whole: a number from 0 to 1.
    Ratio,
    /// `-i`: a number, `max`, or a negative number.
    Instances,
    /// Milliseconds, or a number with a unit.
    Time,
    /// Bytes, or a number with a unit.
    Memory,
    /// A string, which is split at blanks as a shell does, or a list of strings.
    Words,
    /// A string, which is split at commas, or a list of strings.
    List,
    /// A list, which the command line also splits at blanks.
    Patterns,
    /// Addresses to listen on: ports, or IP addresses with a port.
    Addresses,
    /// Whole numbers in this range: one, or a list.
    Numbers(i64, i64),
    /// An object of variables.
    Variables,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A signal that asks a program to stop.
    Signal,
    /// The path of a file.
    File,
    /// Paths of files.
    Files,
    /// Where a stream goes: a path, `true` for the usual file, or `false` for nowhere.
    Output,
    /// `true`, `false`, a path, or a list of paths.
    Watch,
    /// `true`, `false`, a name, or a list of names.
    Filter,
    /// `true` for all, `false` for none, an address or a network, or a list of them.
    Networks,
    /// A time table; `0` or `false` for none.
    Cron,
    /// A name or a number.
    User,
    /// A path, or an object.
    Health,
    /// Anything: the value is ignored.
    Anything,
}

impl Kind {
    /// Any whole number from 0 on.
    pub const COUNT: Kind = Kind::Number(0, u32::MAX as i64);
    /// Any whole number from 1 on.
    pub const POSITIVE: Kind = Kind::Number(1, u32::MAX as i64);

    /// What is expected, for people.
    #[must_use]
    pub fn expected(self) -> String {
        let range = |(least, most)| match (least, most) {
            (least, most) if most < i64::from(i32::MAX) => format!(" from {least} to {most}"),
            (0.., _) => format!(", {least} or more"),
            _ => String::new(),
        };
        let words = match self {
            Kind::Number(least, most) => return format!("a whole number{}", range((least, most))),
            Kind::Numbers(least, most) => {
                return format!("a whole number{} or a list of them", range((least, most)));
            }
            Kind::Choice(words) => return format!("one of: {}", words.join(", ")),
            Kind::Text | Kind::File => "a string",
            Kind::Switch => "true or false",
            Kind::Ratio => "a number from 0 to 1, as 0.02",
            Kind::Instances => "a number of instances: 4, \"max\", or -1 for one fewer than CPUs",
            Kind::Time => "a time: milliseconds, or a number with ms, s, m, h or d, as \"10s\"",
            Kind::Memory => "an amount of memory: bytes, or a number with K, M or G, as \"300M\"",
            Kind::Words | Kind::List | Kind::Patterns | Kind::Files => "a string or a list of strings",
            Kind::Addresses => {
                "a port, or an IP address and a port such as 127.0.0.1:8080 or [::1]:8080, or a list of them"
            }
            Kind::Variables => "an object of variables: { NAME: \"value\" }",
            Kind::Signal => "one of: SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2",
            Kind::Output => "a path, true or false",
            Kind::Watch => "true, false, a path or a list of paths",
            Kind::Filter => "true, false, a name or a list of names",
            Kind::Networks => "true, false, an address or a network, as \"10.0.0.0/8\", or a list of them",
            Kind::Cron => "a time table of cron, as \"0 3 * * *\", or 0 for none",
            Kind::User => "a name or a number",
            Kind::Health => {
                "a path that begins with / and is percent-encoded, such as /health, or an object with path, status, interval, timeout, threshold"
            }
            Kind::Anything => "anything",
        };
        words.to_owned()
    }
}

/// What becomes of a key of an ecosystem file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does what it says.
    Works,
    /// It is accepted, and there is nothing to do for it: why.
    Needless(&'static str),
    /// It is not supported: what to use instead.
    Instead(&'static str),
}

/// The heading that an option has in `rpm start --help`, in the order of the headings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are named as the headings are")]
pub enum Heading {
    Options,
    WorkersAndPorts,
    EcosystemFiles,
    EnvironmentAndUser,
    ReadyStopRestart,
    Output,
    Reload,
    Proxy,
}

impl Heading {
    /// All of them.
    pub const ALL: [Heading; 8] = [
        Heading::Options,
        Heading::WorkersAndPorts,
        Heading::EcosystemFiles,
        Heading::EnvironmentAndUser,
        Heading::ReadyStopRestart,
        Heading::Output,
        Heading::Reload,
        Heading::Proxy,
    ];

    /// As it is printed; `None`: clap's own.
    #[must_use]
    pub fn title(self) -> Option<&'static str> {
        match self {
            Heading::Options => None,
            Heading::WorkersAndPorts => Some("Workers and ports"),
            Heading::EcosystemFiles => Some("Ecosystem files"),
            Heading::EnvironmentAndUser => Some("Environment and user"),
            Heading::ReadyStopRestart => Some("Ready, stop, restart"),
            Heading::Output => Some("Output"),
            Heading::Reload => Some("Reload"),
            Heading::Proxy => Some("With --balance proxy"),
        }
    }
}

/// How an option is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `--name VALUE`; a switch has no value.
    Same,
    /// `--no-name`, which switches it off; its help.
    Off(&'static str),
    /// Without a value, it stands for one of the option.
    Stands {
        /// The value.
        r#for: &'static str,
        /// Its help.
        help: &'static str,
    },
    /// Not at all.
    None,
}

/// An option, which is also a key of the ecosystem file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, in snake case. In camel case it is understood as well.
    pub name: &'static str,
    /// Other names in ecosystem files.
    pub aliases: &'static [&'static str],
    /// What it wants.
    pub kind: Kind,
    /// PM2 has it too.
    pub pm2: bool,
    /// What becomes of it.
    pub state: State,
    /// What it does, in a line.
    pub doc: &'static str,
    /// Its field in the API, if the value goes there as it is.
    pub field: Option<&'static str>,
    /// Its value if nothing is said, where that is worth a word.
    pub default: Option<&'static str>,
    /// Its heading in the help.
    pub heading: Heading,
    /// How it is written on the command line.
    pub flag: Flag,
    /// The name there, if it is another one.
    pub long: Option<&'static str>,
    /// One letter.
    pub short: Option<char>,
    /// Another name there.
    pub alias: Option<&'static str>,
    /// What its value is called in the help, if it is not called as usual for its kind.
    pub value: Option<&'static str>,
    /// Its value may be left out.
    pub optional: bool,
    /// The help, if the command line needs other words than `doc`.
    pub help: Option<&'static str>,
    /// An option without which it means nothing.
    pub needs: Option<&'static str>,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, pm2: bool) -> Key {
        Key {
            name,
            aliases: &[],
            kind,
            pm2,
            state: State::Works,
            doc: "",
            field: None,
            default: None,
            heading: Heading::Options,
            flag: Flag::Same,
            long: None,
            short: None,
            alias: None,
            value: None,
            optional: false,
            help: None,
            needs: None,
        }
    }

    /// A key of PM2.
    #[must_use]
    pub const fn pm2(name: &'static str, kind: Kind) -> Key {
        Key::new(name, kind, true)
    }

    /// A key that PM2 does not have.
    #[must_use]
    pub const fn own(name: &'static str, kind: Kind) -> Key {
        Key::new(name, kind, false)
    }

    /// A key of PM2 that is accepted, and why there is nothing to do for it.
    #[must_use]
    pub const fn needless(name: &'static str, why: &'static str) -> Key {
        Key {
            state: State::Needless(why),
            flag: Flag::None,
            ..Key::new(name, Kind::Anything, true)
        }
    }

    /// A key of PM2 that is not supported, and what to use instead.
    #[must_use]
    pub const fn instead(name: &'static str, what: &'static str) -> Key {
        Key {
            state: State::Instead(what),
            flag: Flag::None,
            ..Key::new(name, Kind::Anything, true)
        }
    }

    /// What it does.
    #[must_use]
    pub const fn doc(self, doc: &'static str) -> Key {
        let doc = doc.trim_ascii_start();
        Key { doc, ..self }
    }

    /// Its field in the API.
    #[must_use]
    pub const fn field(self, field: &'static str) -> Key {
        let field = Some(field);
        Key { field, ..self }
    }

    /// Other names in ecosystem files.
    #[must_use]
    pub const fn aliases(self, aliases: &'static [&'static str]) -> Key {
        Key { aliases, ..self }
    }

    /// Its heading in the help.
    #[must_use]
    pub const fn below(self, heading: Heading) -> Key {
        Key { heading, ..self }
    }

    /// Its value if nothing is said.
    #[must_use]
    pub const fn default(self, default: &'static str) -> Key {
        let default = Some(default);
        Key { default, ..self }
    }

    /// It cannot be said on the command line.
    #[must_use]
    pub const fn file_only(self) -> Key {
        let flag = Flag::None;
        Key { flag, ..self }
    }

    /// On the command line it is `--no-name`, with this help.
    #[must_use]
    pub const fn off(self, help: &'static str) -> Key {
        let flag = Flag::Off(help);
        Key { flag, ..self }
    }

    /// On the command line it is `--long`, which stands for this value, with this help.
    #[must_use]
    pub const fn stands(self, long: &'static str, value: &'static str, help: &'static str) -> Key {
        let flag = Flag::Stands { r#for: value, help };
        let long = Some(long);
        Key { flag, long, ..self }
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn long(self, long: &'static str) -> Key {
        let long = Some(long);
        Key { long, ..self }
    }

    /// Its letter.
    #[must_use]
    pub const fn short(self, short: char) -> Key {
        let short = Some(short);
        Key { short, ..self }
    }

    /// Another name on the command line.
    #[must_use]
    pub const fn alias(self, alias: &'static str) -> Key {
        let alias = Some(alias);
        Key { alias, ..self }
    }

    /// What its value is called in the help.
    #[must_use]
    pub const fn value(self, value: &'static str) -> Key {
        let value = Some(value);
        Key { value, ..self }
    }

    /// On the command line its value may be left out.
    #[must_use]
    pub const fn optional(self) -> Key {
        let optional = true;
        Key { optional, ..self }
    }

    /// The help of the command line, where it needs other words.
    #[must_use]
    pub const fn help(self, help: &'static str) -> Key {
        let help = Some(help);
        Key { help, ..self }
    }

    /// The option without which it means nothing.
    #[must_use]
    pub const fn needs(self, option: &'static str) -> Key {
        let needs = Some(option);
        Key { needs, ..self }
    }
}

/// Makes a type of the API from a table of options.
///
/// The braces hold fields that are no options of their own. A row of the table is what the option does (the documentation of its field and
/// of its key, and its help), the option, and its field, if the value goes there as it is. Two attributes of serde may be needed: `= "yes"`
/// is a switch that is on by default, and a field may have one of its own in front of it.
macro_rules! options {
    (
        $(#[$about:meta])*
        pub struct $spec:ident { $($fixed:tt)* }
        default { $($initial:tt)* }
        $(
            #[doc = $doc:literal]
            $key:expr $(=> $(#[$attribute:meta])* $field:ident: $type:ty $(= $default:tt)?)?;
        )*
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $spec {
            $($fixed)*
            $($(
                #[doc = $doc]
                #[serde(default $(= $default)?)]
                $(#[$attribute])*
                pub $field: $type,
            )?)*
        }

        impl Default for $spec {
            fn default() -> $spec {
                $spec {
                    $($initial)*
                    $($($field: $crate::options::options!(@default $($default)?),)?)*
                }
            }
        }

        impl $spec {
            /// The options of this table.
            pub const OPTIONS: &[$crate::options::Key] = &[$($key.doc($doc)$(.field(stringify!($field)))?),*];

            /// Sets the field of an option; `false`: it has none here.
            ///
            /// # Errors
            /// The value does not fit the field.
            pub fn set(&mut self, option: &str, value: serde_json::Value) -> Result<bool, serde_json::Error> {
                let key = $spec::OPTIONS.iter().find(|key| key.name == option);
                match key.and_then(|key| key.field) {
                    $($(
                        Some(stringify!($field)) => self.$field = serde_json::from_value(value)?,
                    )?)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
    (@default "yes") => { true };
    (@default "default_namespace") => { default_namespace() };
    (@default) => { Default::default() };
}

pub(crate) use options;
