//! Output in rows: search, room, order of time.

use super::*;

pub(in super::super) fn line(text: &str) -> LogLine {
    LogLine {
        id: 0,
        name: "a".to_owned(),
        stream: Stream::Out,
        line: text.to_owned(),
        shared: false,
        time_ms: None,
        to: None,
    }
}

/// Lines `0` to `count - 1`, in a window of ten columns and three rows.
fn book(count: usize) -> Book {
    let mut book = Book::default();
    book.resize(10, 3);
    (0..count).for_each(|number| book.push(&line(&number.to_string())));
    book
}

fn seen(book: &Book) -> Vec<String> {
    let text = |row: Visible| book.entry(row.line).map(|entry| entry.text[row.range].to_owned());
    book.visible().into_iter().filter_map(text).collect()
}

#[test]
fn what_is_paused_before_its_first_line_shows_it() {
    let mut book = book(0);
    book.pause();
    book.push(&line("first"));
    assert_eq!(seen(&book), ["first"]);
}

#[test]
fn it_follows_until_it_is_scrolled_and_again_at_the_end() {
    let mut book = book(9);
    assert_eq!(seen(&book), ["6", "7", "8"]);
    book.scroll(-2);
    book.push(&line("9"));
    assert_eq!(
        (seen(&book), book.below()),
        (vec!["4".into(), "5".into(), "6".into()], 3)
    );
    book.scroll(isize::MIN);
    assert_eq!(seen(&book), ["0", "1", "2"]);
    book.scroll(6);
    assert!(!book.is_followed());
    book.scroll(1);
    assert!(book.is_followed());
    book.scroll(-1);
    book.scroll(isize::MAX);
    assert!(book.is_followed());
    book.pause();
    book.resize(10, 3);
    book.push(&line("10"));
    assert_eq!(
        (seen(&book), book.is_followed()),
        (vec!["7".into(), "8".into(), "9".into()], false)
    );
}

#[test]
fn long_lines_are_wrapped_or_cut() {
    let mut book = book(1);
    book.push(&line("abcdefghijklmnopqrstuvwxyz"));
    assert_eq!(seen(&book), ["abcdefghij", "klmnopqrst", "uvwxyz"]);
    book.scroll(-1);
    assert_eq!(seen(&book), ["0", "abcdefghij", "klmnopqrst"]);
    book.toggle_wrap();
    assert_eq!(seen(&book).len(), 2);
    book.shift(true);
    assert_eq!(seen(&book), ["", "ijklmnopqrstuvwxyz"]);
    book.shift(false);
    book.toggle_wrap();
    book.resize(26, 3);
    assert_eq!(seen(&book), ["0", "abcdefghijklmnopqrstuvwxyz"]);
}

#[test]
fn lines_are_bounded_and_the_window_stays_on_what_it_shows() {
    let mut book = book(100);
    book.scroll(-7);
    let before = seen(&book);
    book.push(&line("more"));
    assert_eq!(seen(&book), before);
    (0..LINES + 10).for_each(|_| book.push(&line("x")));
    assert_eq!((book.len(), book.is_followed()), (LINES, false));
    assert_eq!(seen(&book), ["x", "x", "x"], "what was shown is gone");
    let huge = "y".repeat(9000);
    (0..2100).for_each(|_| book.push(&line(&huge)));
    assert!(book.bytes <= BYTES, "{}", book.bytes);
    book.clear();
    assert_eq!((book.len(), book.bytes, book.is_followed()), (0, 0, true));
    assert_eq!((seen(&book), book.below()), (Vec::new(), 0));
}

#[test]
fn lines_of_several_files_are_in_the_order_of_time() {
    let mut book = Book::default();
    book.resize(10, 9);
    let push = |book: &mut Book, id, time_ms, text: &str| {
        book.push(&LogLine {
            id,
            time_ms,
            ..line(text)
        });
    };
    push(&mut book, 0, None, "?");
    push(&mut book, 0, Some(10), "a");
    push(&mut book, 0, Some(30), "c");
    book.search("c");
    assert!(book.jump(false));
    push(&mut book, 1, Some(10), "a2");
    push(&mut book, 1, Some(20), "b");
    push(&mut book, 1, Some(40), "d");
    assert_eq!(seen(&book), ["?", "a", "a2", "b", "c", "d"]);
    assert!(book.jump(false));
    let current = book.search.current.and_then(|line| book.entry(line));
    assert_eq!(
        current.map(|entry| entry.text.as_str()),
        Some("c"),
        "it has moved"
    );
    // The clock is set back.
    push(&mut book, 1, Some(5), "e");
    push(&mut book, 0, Some(6), "f");
    push(&mut book, 1, Some(7), "g");
    assert_eq!(seen(&book), ["?", "a", "a2", "b", "c", "d", "e", "f", "g"]);
}

#[test]
fn a_search_goes_from_match_to_match_and_round() {
    let mut book = book(40);
    book.search("3");
    // 3, 13, 23, 30 to 39.
    assert_eq!(book.matches(), Some((0, 13)));
    let mut at = |down| {
        assert!(book.jump(down));
        let current = book.search.current.expect("a match");
        assert!(book.visible().iter().any(|row| row.line == current), "{current}");
        current
    };
    assert_eq!([at(false), at(false), at(true), at(true)], [39, 38, 39, 3]);
    assert_eq!([at(true), at(false), at(false)], [13, 3, 39]);
    assert_eq!(book.matches(), Some((13, 13)));
    book.push(&line("another 3"));
    assert_eq!(book.matches(), Some((13, 14)));
    book.search("nowhere");
    assert!(!book.jump(true));
    book.search("");
    assert_eq!(book.matches(), None);
}
