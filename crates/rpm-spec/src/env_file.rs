//! Files of variables, in the syntax of Node's `--env-file`.

/// The variables of a text, in their order. The last assignment of a variable counts. Lines that are not assignments are skipped, as in Node.
///
/// A value may be in `"`, `'` or `` ` ``, over several lines; in `"` a `\n` is a line break. One without quotes ends at a `#`.
#[must_use]
pub fn parse_env(text: &str) -> Vec<(String, String)> {
    let text = text.replace('\r', "");
    let mut rest = text.trim_matches(is_space);
    let mut found = Vec::new();
    while !rest.is_empty() {
        let end = rest.find('\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        let equals = line.find('=').filter(|_| !line.starts_with('#'));
        let Some(equals) = equals else {
            rest = after(rest, end).trim_start_matches(is_space);
            continue;
        };
        let name = line[..equals].trim_matches(is_space);
        let name = name
            .strip_prefix("export ")
            .unwrap_or(name)
            .trim_matches(is_space);
        let (value, left) = value(&rest[equals + 1..]);
        if !name.is_empty() {
            found.push((name.to_owned(), value));
        }
        rest = left.trim_start_matches(is_space);
    }
    found
}

/// A value, and what follows its line.
fn value(text: &str) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(quote) = text
        .chars()
        .next()
        .filter(|letter| matches!(letter, '"' | '\'' | '`'))
        && let Some(close) = text[1..].find(quote)
    {
        let inside = &text[1..=close];
        let value = match quote {
            '"' => inside.replace("\\n", "\n"),
            _ => inside.to_owned(),
        };
        let behind = &text[close + 2..];
        return (value, after(behind, behind.find('\n')));
    }
    let end = text.find('\n');
    let line = &text[..end.unwrap_or(text.len())];
    let plain = line.split('#').next().unwrap_or_default();
    (plain.trim_matches(is_space).to_owned(), after(text, end))
}

fn after(text: &str, end: Option<usize>) -> &str {
    end.map_or("", |end| &text[end + 1..])
}

fn is_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let found = parse_env(text);
        let pairs: Vec<String> = found
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        pairs.join(" ")
    }

    /// The right column is what `node:util`'s `parseEnv` says, of Node 22.
    #[test]
    fn the_syntax_is_nodes() {
        for (text, expected) in CASES {
            assert_eq!(shown(text), *expected, "{text:?}");
        }
    }

    const CASES: &[(&str, &str)] = &[
        ("A=1\nB=2", r#"A="1" B="2""#),
        ("  A = 1  \n\n\n B=2 \n", r#"A="1" B="2""#),
        ("A=1\r\nB=2\r\n", r#"A="1" B="2""#),
        ("# a comment\nA=1 # another\n#B=2", r#"A="1""#),
        ("A=a#b\nB=\"a#b\" # c\nC='#'", r##"A="a" B="a#b" C="#""##),
        ("export A=1\nexport  B=2", r#"A="1" B="2""#),
        ("A=\nB=", r#"A="" B="""#),
        ("A=\"x y\"\nB='x y'\nC=`x y`", r#"A="x y" B="x y" C="x y""#),
        ("A=\"one\ntwo\"\nB=1", r#"A="one\ntwo" B="1""#),
        (r#"A="a\nb""#, r#"A="a\nb""#),
        (r"A='a\nb'", r#"A="a\\nb""#),
        ("A=`it's \"so\"`", r#"A="it's \"so\"""#),
        ("A=\"open\nB=1", r#"A="\"open" B="1""#),
        ("A='it''s'\nB=2", r#"A="it" B="2""#),
        ("no assignment\nA=1\nneither", r#"A="1""#),
        ("A=x=y=z", r#"A="x=y=z""#),
        (
            "URL=postgres://u:p@h/db?x=1&y=2",
            r#"URL="postgres://u:p@h/db?x=1&y=2""#,
        ),
        ("A=$B ${C}", r#"A="$B ${C}""#),
        ("", ""),
        ("\n\n", ""),
    ];
}
