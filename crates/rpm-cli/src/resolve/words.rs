//! Words of `--interpreter-args`: separated by spaces, kept together by quotes.

/// Splits like a shell that knows quotes and nothing else; `None` if a quote is not closed.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_and_quotes() {
        let cases: [(&str, Option<&[&str]>); 6] = [
            ("--harmony", Some(&["--harmony"])),
            ("  -a   -b=1 ", Some(&["-a", "-b=1"])),
            ("-r 'a b' --x=\"c d\"e", Some(&["-r", "a b", "--x=c de"])),
            ("''", Some(&[""])),
            ("", Some(&[])),
            ("-r 'a b", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|words| words.iter().map(|&word| word.to_owned()).collect());
            assert_eq!(split(text), expected, "{text}");
        }
    }
}
