//! Just enough of Rust's lexical grammar to tell code from comments and literals.

/// `text` with comments and literals (quotes included) turned into spaces. Newlines stay, so offsets
/// and line numbers are those of `text`.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let length = match opaque_length(rest, after_word) {
            Some(length) => {
                code.extend(
                    rest[..length]
                        .bytes()
                        .map(|byte| if byte == b'\n' { '\n' } else { ' ' }),
                );
                length
            }
            None => {
                code.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    code
}

/// Length of the comment or literal at the start of `rest`, if one starts there.
fn opaque_length(rest: &str, after_word: bool) -> Option<usize> {
    match rest.as_bytes().first()? {
        b'/' if rest.starts_with("//") => Some(rest.find('\n').unwrap_or(rest.len())),
        b'/' if rest.starts_with("/*") => Some(block_comment_length(rest)),
        b'"' => Some(1 + quoted_length(&rest[1..], '"')),
        b'\'' => char_length(rest),
        b'r' | b'b' | b'c' if !after_word => raw_string_length(rest),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of what follows an opening quote, up to and with the closing one.
fn quoted_length(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    for (offset, character) in inside.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return offset + 1;
        }
    }
    inside.len()
}

/// A quote starts a character when one character, or an escape, and another quote follow; else a lifetime.
fn char_length(rest: &str) -> Option<usize> {
    let mut inside = rest[1..].chars();
    let first = inside.next()?;
    if first == '\\' || inside.next() == Some('\'') {
        Some(1 + quoted_length(&rest[1..], '\''))
    } else {
        None
    }
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let after_prefix = ["r", "br", "cr"].into_iter().find_map(|prefix| {
        let after = rest.strip_prefix(prefix)?;
        after.starts_with(['#', '"']).then_some(after)
    })?;
    let hashes = after_prefix.len() - after_prefix.trim_start_matches('#').len();
    let inside = after_prefix[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inside
        .find(&end)
        .map_or(inside.len(), |offset| offset + end.len());
    Some(rest.len() - inside.len() + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_spaces() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"a "b\"c" d"#, "a        d"),
            ("a r#\"b\"c\"# d", "a          d"),
            ("a br\"\\\" d", "a       d"),
            ("a b\"c\" d", "a b    d"),
            ("a '\\'' b '\"' c", "a      b     c"),
            (
                "fn f<'a>(x: &'a str) { 'l: loop {} }",
                "fn f<'a>(x: &'a str) { 'l: loop {} }",
            ),
            ("r#type + for\"x\"", "r#type + for   "),
            ("\"two\nlines\" x", "    \n       x"),
        ] {
            assert_eq!(code_only(text), code, "{text}");
        }
    }

    #[test]
    fn offsets_stay_with_wide_characters_and_open_ends() {
        for text in [
            "/* é */ ü 'é' x",
            "\"é",
            "/* é",
            "r#\"é",
            "'",
            "'\\",
            "b",
            "é\\\"x\\\"",
        ] {
            let code = code_only(text);
            assert_eq!(code.len(), text.len(), "{text}");
            assert_eq!(
                code.find('x'),
                text.find('x').filter(|_| code.contains('x')),
                "{text}"
            );
        }
    }
}
