//! The PROXY protocol, versions 1 and 2: a load balancer in front tells the client's address (haproxy.org, proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest line of version 1, in bytes.
const LINE: usize = 107;
/// Signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes after the first 16 of version 2: addresses and extensions.
const REST: usize = 4096;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// An incomplete header.
    Partial,
    /// A header of this length, and the client that it names. `None`: the peer of the connection.
    Complete(usize, Option<IpAddr>),
    /// Not the PROXY protocol.
    Bad,
}

/// Parses the first bytes of a connection.
#[must_use]
pub fn read(bytes: &[u8]) -> Header {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] == SIGNATURE[..known] {
        return version_2(bytes);
    }
    version_1(bytes)
}

fn version_1(bytes: &[u8]) -> Header {
    let Some(end) = bytes.iter().take(LINE).position(|byte| *byte == b'\n') else {
        let known = bytes.len().min(6);
        let begun = bytes[..known] == b"PROXY "[..known];
        return if begun && bytes.len() < LINE {
            Header::Partial
        } else {
            Header::Bad
        };
    };
    let line = bytes[..end]
        .strip_suffix(b"\r")
        .and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or_default().split(' ');
    if words.next() != Some("PROXY") {
        return Header::Bad;
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Header::Complete(end + 1, None);
    }
    let mut address = || words.next().and_then(|word| word.parse::<IpAddr>().ok());
    let (Some(source), Some(target)) = (address(), address()) else {
        return Header::Bad;
    };
    let mut port = || words.next().is_some_and(|word| word.parse::<u16>().is_ok());
    let ports = port() && port();
    let fits = match family {
        Some("TCP4") => source.is_ipv4() && target.is_ipv4(),
        Some("TCP6") => source.is_ipv6() && target.is_ipv6(),
        _ => false,
    };
    if fits && ports && words.next().is_none() {
        Header::Complete(end + 1, Some(source))
    } else {
        Header::Bad
    }
}

fn version_2(bytes: &[u8]) -> Header {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return Header::Partial;
    };
    let (version, family) = (head[12], head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if version >> 4 != 2 || length > REST {
        return Header::Bad;
    }
    let Some(rest) = rest.get(..length) else {
        return Header::Partial;
    };
    let source = match (version & 0xf, family >> 4) {
        // LOCAL: a connection of the balancer itself, such as a health check. UNSPEC and Unix sockets have no client address.
        (0, _) | (1, 0 | 3) => None,
        (1, 1) => match rest.first_chunk::<4>() {
            Some(ip) if rest.len() >= 12 => Some(IpAddr::from(Ipv4Addr::from(*ip))),
            _ => return Header::Bad,
        },
        (1, 2) => match rest.first_chunk::<16>() {
            Some(ip) if rest.len() >= 36 => Some(IpAddr::from(Ipv6Addr::from(*ip))),
            _ => return Header::Bad,
        },
        _ => return Header::Bad,
    };
    Header::Complete(16 + length, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every beginning of a good one is partial, and what follows does not matter.
    fn whole(bytes: &[u8], expected: Option<IpAddr>) {
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Header::Partial, "{length} of {bytes:?}");
        }
        let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(read(&more), Header::Complete(bytes.len(), expected), "{bytes:?}");
    }

    fn binary(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[version, family], &length, rest].concat()
    }

    #[test]
    fn a_line_names_the_client() {
        whole(
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
            Some([192, 0, 2, 7].into()),
        );
        whole(
            b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n",
            Some("2001:db8::7".parse().expect("an address")),
        );
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n", None);
    }

    #[test]
    fn bytes_name_the_client() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 0, 80];
        whole(&binary(0x21, 0x11, &v4), Some([192, 0, 2, 7].into()));
        let more = [&v4[..], &[4, 0, 1, 0]].concat();
        whole(&binary(0x21, 0x11, &more), Some([192, 0, 2, 7].into()));
        let mut v6 = [0; 36];
        v6[15] = 1;
        whole(&binary(0x21, 0x21, &v6), Some(Ipv6Addr::LOCALHOST.into()));
        whole(&binary(0x20, 0, &[]), None);
        whole(&binary(0x21, 0, &[1, 2, 3]), None);
    }

    #[test]
    fn anything_else_is_bad() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 x\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.300 198.51.100.1 4711 443\r\n",
            b"PROXY  TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
            b"PROXY\r\n",
            b"proxy TCP4",
            b"\x16\x03\x01",
        ] {
            assert_eq!(read(bad), Header::Bad, "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(read(&[b'P'; 200]), Header::Bad);
        assert_eq!(read(&[b"PROXY ".to_vec(), vec![b'1'; 200]].concat()), Header::Bad);
        for (version, family, rest) in [
            (0x11, 0x11, &[0; 12][..]),
            (0x22, 0x11, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x41, &[0; 12]),
            (0x21, 0x11, &[0; REST + 1]),
        ] {
            assert_eq!(
                read(&binary(version, family, rest)),
                Header::Bad,
                "{version:x} {family:x}"
            );
        }
    }
}
