//! Suggestions for misspelled words.

/// The word of `words` that is most similar to `word`, if only a few letters are wrong, missing, added or swapped.
#[must_use]
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let allowed = match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    let scored = words.into_iter().map(|known| (distance(&word, known), known));
    let (distance, known) = scored.min_by_key(|(distance, known)| (*distance, known.len()))?;
    (distance <= allowed).then_some(known)
}

/// Letters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
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
    }
}
