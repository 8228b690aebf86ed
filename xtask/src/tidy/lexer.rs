//! Separates code from comments and literals in a Rust file.

use std::ops::Range;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// `text` with comments and literals (quotes included) replaced by spaces. Newlines stay, so offsets and line numbers are those of `text`.
/// A file that is not valid Rust has no code; rustfmt, which runs first, reports it.
pub(crate) fn code_only(text: &str) -> String {
    let blank = |byte: u8| if byte == b'\n' { b'\n' } else { b' ' };
    let mut code: Vec<u8> = text.bytes().map(blank).collect();
    if let Ok(tokens) = text.parse() {
        copy(tokens, text, &mut code);
    }
    String::from_utf8(code).expect("whole tokens of a string are UTF-8")
}

/// Copies the tokens of `text` to their places in `code`.
fn copy(tokens: TokenStream, text: &str, code: &mut [u8]) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => keep(&ident.span().byte_range(), &ident.to_string(), text, code),
            TokenTree::Punct(punct) => {
                keep(
                    &punct.span().byte_range(),
                    &punct.as_char().to_string(),
                    text,
                    code,
                );
            }
            TokenTree::Literal(_) => {}
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                keep(&group.span_open().byte_range(), open, text, code);
                // Within a doc comment's tokens there is nothing else to keep.
                if code[group.span_open().byte_range()] == *open.as_bytes() {
                    keep(&group.span_close().byte_range(), close, text, code);
                    copy(group.stream(), text, code);
                }
            }
        }
    }
}

/// Copies one token, unless something else is written at its place: the tokens of a doc comment (`#[doc = "…"]`) have that of the comment.
fn keep(range: &Range<usize>, token: &str, text: &str, code: &mut [u8]) {
    if text.get(range.clone()) == Some(token) {
        code[range.clone()].copy_from_slice(token.as_bytes());
    }
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_spaces() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            ("/// b (c)\na //! d\n", "         \na      \n"),
            (r#"a "b\"c" d"#, "a        d"),
            ("a r#\"b\"c\"# d", "a          d"),
            ("a br\"\\\" d", "a       d"),
            ("a b\"c\" d", "a      d"),
            ("a '\\'' b '\"' c", "a      b     c"),
            (
                "fn f<'a>(x: &'a str) { 'l: loop {} }",
                "fn f<'a>(x: &'a str) { 'l: loop {} }",
            ),
            ("r#type + for \"x\"", "r#type + for    "),
            ("\"two\nlines\" x", "    \n       x"),
        ] {
            assert_eq!(code_only(text), code, "{text}");
        }
    }

    #[test]
    fn offsets_stay_with_wide_characters_and_without_tokens() {
        for text in ["/* é */ ü 'é' x", "\"é\" x", "\"é", "/* é", "r#\"é", "'\\"] {
            let code = code_only(text);
            assert_eq!(code.len(), text.len(), "{text}");
            assert_eq!(code.find('x'), text.find('x'), "{text}");
        }
    }
}
