//! Suggestions for misspelled words.

/// How much of a word is compared, in letters: comparing takes the product of both lengths.
const COMPARED: usize = 64;

/// The word of `words` that is most similar to `word`, if only a few letters are wrong, missing, added or swapped.
#[must_use]
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = beginning(word).to_ascii_lowercase();
    let allowed = match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    let scored = words
        .into_iter()
        .map(|known| (strsim::osa_distance(&word, beginning(known)), known));
    let (distance, known) = scored.min_by_key(|(distance, known)| (*distance, known.len()))?;
    (distance <= allowed).then_some(known)
}

fn beginning(word: &str) -> &str {
    let end = word.char_indices().nth(COMPARED);
    end.map_or(word, |(end, _)| &word[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["instances", "script", "exec_mode", "watch", "env"];
        assert_eq!(nearest("instnaces", words), Some("instances"));
        assert_eq!(nearest("Instance", words), Some("instances"));
        assert_eq!(nearest("wach", words), Some("watch"));
        assert_eq!(nearest("exec-mode", words), Some("exec_mode"));
        for far in ["", "x", "en", "colour", "instantiate_everything"] {
            assert_eq!(nearest(far, words), None, "{far}");
        }
        let long = "é".repeat(100);
        assert_eq!(nearest(&format!("x{long}"), [long.as_str()]), Some(long.as_str()));
    }
}
