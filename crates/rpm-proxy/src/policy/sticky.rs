//! The cookie by which a client stays with its worker.

/// The worker that the cookie of this name holds, in the lines of `Cookie`.
pub(crate) fn named_worker<'c>(lines: impl Iterator<Item = &'c str>, name: &str) -> Option<u32> {
    let pairs = lines.flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

/// The value of `Set-Cookie` for a client of this worker.
pub(crate) fn set_cookie(name: &str, worker: u32, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={worker}; Path=/; HttpOnly; SameSite=Lax{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_names_a_worker() {
        for (lines, expected) in [
            (&["a=1; w=3"][..], Some(3)),
            (&["a=1", "w=4"], Some(4)),
            (&["w=x"], None),
            (&["ww=1"], None),
            (&[], None),
        ] {
            assert_eq!(named_worker(lines.iter().copied(), "w"), expected, "{lines:?}");
        }
        assert_eq!(
            set_cookie("w", 3, true),
            "w=3; Path=/; HttpOnly; SameSite=Lax; Secure"
        );
    }
}
