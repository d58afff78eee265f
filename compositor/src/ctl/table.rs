//! Text tables: columns as wide as their widest cell, two blanks between them.

/// Lays rows out; the first one is the heading. Cells that the last rows lack are empty.
pub fn lay_out(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let spare = width - cell.chars().count();
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', spare + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a client says of itself, fit for a terminal and for one line: control characters and what turns text around are
/// replaced, and what is long is cut.
pub fn plain(text: &str) -> String {
    const LONGEST: usize = 80;
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |c: char| if c.is_control() || turns(c) { '\u{fffd}' } else { c };
    let mut plain: String = text.chars().take(LONGEST).map(shown).collect();
    if text.chars().count() > LONGEST {
        plain.push('\u{2026}');
    }
    plain
}

/// A number of bytes in MiB.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// Milliseconds as the largest unit that has at least one of it.
pub fn age(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..120_000 => format!("{:.1} s", millis as f64 / 1000.0),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        let rows = [row(&["z", "who"]), row(&["12", "ä"]), row(&["3"])];
        assert_eq!(lay_out(&rows), "z   who\n12  ä\n3\n");
    }

    #[test]
    fn what_clients_say_cannot_drive_a_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        assert_eq!(plain(&"x".repeat(200)).chars().count(), 81);
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [age(999), age(61_000), age(180_000), age(9_000_000)],
            ["999 ms", "61.0 s", "3 min", "2 h"]
        );
    }
}
