//! A man page for the program, and one for each of its commands.

use std::io;

use clap::Command;
use clap::builder::Resettable;
use clap_mangen::Man;

/// File names and texts, for a program that is called `program`: `rpm.1`, `rpm-start.1` and so on.
pub(crate) fn all(program: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut grammar = rpm_cli::grammar(program).disable_help_subcommand(true);
    grammar.build();
    let shown = grammar.get_subcommands().filter(|command| !command.is_hide_set());
    let mut pages = vec![(format!("{program}.1"), page(&grammar, program, program)?)];
    for command in shown {
        let name = format!("{program}-{}", command.get_name());
        pages.push((format!("{name}.1"), page(command, &name, program)?));
    }
    Ok(pages)
}

fn page(command: &Command, name: &str, program: &str) -> io::Result<Vec<u8>> {
    let more = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    // clap wants names that live for ever; the process ends soon.
    let own: &'static str = String::leak(name.to_owned());
    let bare = command.clone().display_name(own).name(own);
    let man = Man::new(bare.after_help(Resettable::Reset)).manual(program);
    let mut text = Vec::new();
    man.render(&mut text)?;
    let mut verbatim = false;
    let notes = !more.is_empty() && !more.starts_with("Examples:");
    text.extend(notes.then_some(".SH NOTES\n".bytes()).into_iter().flatten());
    for line in more.lines() {
        let written = match line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            Some(heading) => {
                verbatim = true;
                format!(".SH {}\n.nf\n", heading.to_uppercase())
            }
            None if line.is_empty() => ".PP\n".to_owned(),
            // Part of a file, as it is.
            None if line.starts_with(' ') && !verbatim => format!(".nf\n{}\n.fi\n", escaped(line)),
            None => format!("{}\n", escaped(line.trim_start())),
        };
        text.extend(written.bytes());
    }
    if verbatim {
        text.extend(b".fi\n");
    }
    if name != program {
        text.extend(format!(".SH \"SEE ALSO\"\n.BR {program} (1)\n").bytes());
    }
    Ok(String::from_utf8_lossy(&text)
        .chars()
        .flat_map(in_ascii)
        .collect())
}

/// groff reads bytes.
fn in_ascii(letter: char) -> Vec<u8> {
    match letter.is_ascii() {
        true => letter.to_string().into_bytes(),
        false => format!("\\[u{:04X}]", u32::from(letter)).into_bytes(),
    }
}

/// A line of text that roff takes for nothing else.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}
