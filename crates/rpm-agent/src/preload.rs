//! The preload as a value of `NODE_OPTIONS`.

use std::sync::LazyLock;

/// The preload for Node, with comments.
const SOURCE: &str = include_str!("node.js");

/// The preload for Bun, with comments.
const BUN_SOURCE: &str = include_str!("bun.js");

/// Start of the last line, which is never stripped: it names the preload in stack traces, which would otherwise show the whole module as
/// its address.
const NAME: &str = "//# sourceURL=";

/// Longest string that Linux accepts in an environment, including `NAME=` and the final zero (`MAX_ARG_STRLEN`), in bytes.
const MAX_ENVIRONMENT_STRING: usize = 128 * 1024;

static OPTION: LazyLock<String> = LazyLock::new(|| format!("--import={}", module(SOURCE)));

/// What measures a process, which its agent imports.
pub(crate) static FIGURES: LazyLock<String> = LazyLock::new(|| module(include_str!("figures.js")));

/// A module as an address: there is no file that could be missing or unreadable.
fn module(source: &str) -> String {
    format!(
        "data:text/javascript;base64,{}",
        base64(stripped(source).as_bytes())
    )
}

/// The value of `NODE_OPTIONS` for a worker with the agent: the user's options, then ours. It needs Node 18.18; an older one refuses to
/// start with it. The user's value is returned unchanged if it has the agent already, or if the result would be longer than the system
/// allows.
#[must_use]
pub fn node_options(users: Option<&str>) -> String {
    let users = users.unwrap_or_default().trim_end();
    let length = "NODE_OPTIONS=".len() + users.len() + " ".len() + OPTION.len() + 1;
    if users.contains(OPTION.as_str()) || length > MAX_ENVIRONMENT_STRING {
        users.to_owned()
    } else if users.is_empty() {
        OPTION.clone()
    } else {
        format!("{users} {}", *OPTION)
    }
}

/// Contents and name of the preload file for Bun. The name depends on the contents.
#[must_use]
pub fn bun_preload() -> (String, String) {
    let text = stripped(BUN_SOURCE);
    let name = format!("agent-{:016x}.js", hash(text.as_bytes()));
    (text, name)
}

/// The value of `BUN_OPTIONS` for a worker with the agent at this path, after the user's own options. `None` if the path contains blanks,
/// at which Bun splits the value.
#[must_use]
pub fn bun_options(users: Option<&str>, path: &str) -> Option<String> {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\'));
    let users = users.unwrap_or_default().trim_end();
    // It must be one word: of two, `bun run …` takes the second for its script.
    let ours = format!("--preload={path}");
    plain.then(|| match users.is_empty() {
        true => ours,
        false if users.split(' ').any(|word| word == ours) => users.to_owned(),
        false => format!("{users} {ours}"),
    })
}

/// FNV-1a. Unlike the standard library's hash, it is the same in every version of this program.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The source without indentation, empty lines and comment lines, because every process carries it in its environment.
fn stripped(source: &str) -> String {
    let kept = source.lines().map(str::trim).filter(|line| {
        let comment = ["//", "/*", "* ", "*/"]
            .iter()
            .any(|start| line.starts_with(start));
        !line.is_empty() && (!comment || line.starts_with(NAME))
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Standard base64 with padding (RFC 4648). Its alphabet has no meaning to shells, in URLs or to Node, which splits `NODE_OPTIONS` at
/// spaces and interprets quotes and backslashes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (group >> (18 - 6 * digit)) & 0x3f;
            text.push(if digit <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in vectors {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn ours_follows_the_users() {
        let ours = node_options(None);
        assert!(
            ours.starts_with("--import=data:text/javascript;base64,"),
            "{ours}"
        );
        assert_eq!(node_options(Some("  ")), ours);
        assert_eq!(
            node_options(Some("--require \"a b.js\" ")),
            format!("--require \"a b.js\" {ours}")
        );
    }

    #[test]
    fn options_of_bun_are_single_words() {
        let ours = bun_options(None, "/h/agent.js").expect("a plain path");
        assert_eq!(ours, "--preload=/h/agent.js");
        let both = bun_options(Some("--smol "), "/h/agent.js").expect("a plain path");
        assert_eq!(both, "--smol --preload=/h/agent.js");
        assert_eq!(
            bun_options(Some(&both), "/h/agent.js").as_deref(),
            Some(both.as_str())
        );
        assert_eq!(bun_options(None, "/a b/agent.js"), None);
    }

    #[test]
    fn one_agent_is_enough() {
        let once = node_options(Some("--no-warnings"));
        assert_eq!(node_options(Some(&once)), once);
    }

    #[test]
    fn options_that_fill_the_environment_are_left_alone() {
        let long = "x".repeat(MAX_ENVIRONMENT_STRING - OPTION.len() - "NODE_OPTIONS= \0".len());
        assert_ne!(node_options(Some(&long)), long, "it just fits");
        let longer = format!("{long}x");
        assert_eq!(node_options(Some(&longer)), longer);
    }

    #[test]
    fn the_preload_is_small_and_named() {
        assert!(
            OPTION.len() < 16 * 1024,
            "every process below a worker carries {} bytes",
            OPTION.len()
        );
        let carried = stripped(SOURCE);
        assert!(carried.ends_with("\n//# sourceURL=rpm-agent"), "{carried}");
        let comment = |line: &&str| line.starts_with("//") || line.starts_with('*');
        assert_eq!(carried.lines().filter(comment).count(), 1, "only the name");
    }
}
