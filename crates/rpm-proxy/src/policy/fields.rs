//! Header fields that are not simply passed on.

/// Most header fields of a message.
pub(crate) const MAX_FIELDS: usize = 128;

/// A field, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Host,
    Connection,
    Upgrade,
    TransferEncoding,
    ContentLength,
    Te,
    Expect,
    Cookie,
    /// What a client says about earlier proxies: those that the proxy sends itself, and those that other proxies send.
    Forwarded,
    AcceptEncoding,
    /// Any other field of one connection.
    Hop,
    Other,
}

impl Name {
    #[inline]
    pub(crate) fn of(name: &str) -> Name {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Name::Te,
            4 if is("host") => Name::Host,
            6 if is("expect") => Name::Expect,
            6 if is("cookie") => Name::Cookie,
            7 if is("upgrade") => Name::Upgrade,
            9 if is("forwarded") || is("x-real-ip") => Name::Forwarded,
            10 if is("connection") => Name::Connection,
            10 if is("keep-alive") => Name::Hop,
            14 if is("content-length") => Name::ContentLength,
            14 if is("http2-settings") => Name::Hop,
            15 if is("accept-encoding") => Name::AcceptEncoding,
            16 if is("proxy-connection") => Name::Hop,
            17 if is("transfer-encoding") => Name::TransferEncoding,
            _ if is_forwarded(name) => Name::Forwarded,
            _ => Name::Other,
        }
    }

    /// The field is about one connection and ends here (RFC 9110, 7.6.1). What of it the next connection needs is written again.
    #[inline]
    pub(crate) fn is_hop_by_hop(self) -> bool {
        match self {
            Name::Connection | Name::Upgrade | Name::TransferEncoding | Name::Te | Name::Hop => true,
            Name::Host
            | Name::ContentLength
            | Name::Expect
            | Name::Cookie
            | Name::Forwarded
            | Name::AcceptEncoding
            | Name::Other => false,
        }
    }

    /// `Connection` cannot remove it by naming it: it says where the message ends, or where it goes.
    #[inline]
    pub(crate) fn is_essential(self) -> bool {
        match self {
            Name::Host | Name::ContentLength | Name::TransferEncoding => true,
            Name::Connection
            | Name::Upgrade
            | Name::Te
            | Name::Expect
            | Name::Cookie
            | Name::Forwarded
            | Name::AcceptEncoding
            | Name::Hop
            | Name::Other => false,
        }
    }
}

/// `X-Forwarded-For`, `-Port`, `-Prefix` and so on. Applications may believe any of them.
#[inline]
fn is_forwarded(name: &str) -> bool {
    const FAMILY: &[u8] = b"x-forwarded-";
    let first = name.as_bytes().get(..FAMILY.len());
    first.is_some_and(|first| first.eq_ignore_ascii_case(FAMILY))
}

/// The name differs from one in [`Name::of`] by underscores alone. Where fields become variables (CGI, WSGI) the two are the same.
#[inline]
pub(crate) fn is_disguised(name: &str) -> bool {
    name.contains('_') && Name::of(&name.replace('_', "-")) != Name::Other
}

/// The comma-separated words of a field.
pub(crate) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_connection_says_ends_there() {
        for (name, hop, essential) in [
            ("Connection", true, false),
            ("keep-alive", true, false),
            ("Proxy-Connection", true, false),
            ("HTTP2-Settings", true, false),
            ("TE", true, false),
            ("upgrade", true, false),
            ("Transfer-Encoding", true, true),
            ("content-length", false, true),
            ("Host", false, true),
            ("trailer", false, false),
            ("cookie", false, false),
            ("x-forwarded-for", false, false),
        ] {
            let known = Name::of(name);
            assert_eq!(
                (known.is_hop_by_hop(), known.is_essential()),
                (hop, essential),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_said_of_proxies_is_a_family() {
        for (name, expected) in [
            ("Forwarded", true),
            ("X-Forwarded-Proto", true),
            ("x-forwarded-PORT", true),
            ("X-Real-Ip", true),
            ("x-forwarded", false),
            ("x-forward-for", false),
        ] {
            assert_eq!(Name::of(name) == Name::Forwarded, expected, "{name}");
        }
    }

    #[test]
    fn underscores_disguise_nothing() {
        for (name, expected) in [
            ("x_forwarded_for", true),
            ("Content_Length", true),
            ("X_Real_IP", true),
            ("x-forwarded_client-certificate", true),
            ("x_own", false),
            ("x-forwarded-for", false),
        ] {
            assert_eq!(is_disguised(name), expected, "{name}");
        }
    }
}
