//! Words as a POSIX shell reads them.

/// `text` so that a shell takes it for one word: as it is where nothing in it is special, otherwise in single quotes.
#[must_use]
pub fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+,=".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_as_one_word() {
        for (text, expected) in [
            ("web", "web"),
            ("@acme/api", "@acme/api"),
            ("npm start", "'npm start'"),
            ("it's", "'it'\\''s'"),
            ("$HOME", "'$HOME'"),
            ("~", "'~'"),
            ("/^web-/", "'/^web-/'"),
            ("", "''"),
        ] {
            assert_eq!(word(text), expected);
        }
    }
}
