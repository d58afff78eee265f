//! The table of rows in the crate's documentation against the tests that there are.

use std::{fs, path::Path};

const TABLE: &str = include_str!("../rows.md");
/// S01 to S34.
const ROWS: usize = 34;

/// What is wrong with a table of rows, given the sources of all tests.
fn faults(table: &str, sources: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for number in 1..=ROWS {
        let row = format!("S{number:02}");
        let lines: Vec<&str> = table.lines().filter(|line| line.starts_with(&format!("| {row} |"))).collect();
        let [line] = lines[..] else {
            faults.push(format!("{row} has {} lines", lines.len()));
            continue;
        };
        let tests: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            faults.push(format!("{row} names no test"));
        }
        for test in tests {
            let number = row.to_lowercase();
            if !test.split('_').take_while(|word| is_row(word)).any(|word| word == number) {
                faults.push(format!("{row} names {test}, which is not named after it"));
            }
            if !is_test(test, sources) {
                faults.push(format!("{row} names {test}, which is no test"));
            }
        }
    }
    faults
}

fn is_row(word: &str) -> bool {
    word.len() == 3 && word.starts_with('s') && word[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a function of that name has the attribute that makes it a test, and is not ignored.
fn is_test(name: &str, sources: &str) -> bool {
    sources.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let before = sources[..at].lines().rev();
        let attributes: Vec<_> =
            before.map(str::trim).take_while(|line| line.starts_with("#[") || line.is_empty()).collect();
        attributes.contains(&"#[test]") && !attributes.iter().any(|line| line.starts_with("#[ignore"))
    })
}

fn read_sources(folder: &Path, sources: &mut String) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

#[test]
fn every_row_names_its_tests() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in [own.join("src"), own.join("tests"), own.join("../tests")] {
        read_sources(&folder, &mut sources);
    }
    let faults = faults(TABLE, &sources);
    assert!(faults.is_empty(), "rows.md:\n{}", faults.join("\n"));
}

#[test]
fn a_bad_table_is_seen() {
    let good: String = (1..=ROWS).map(|n| format!("| S{n:02} | text | `s{n:02}_works` |\n")).collect();
    let sources: String = (1..=ROWS).map(|n| format!("    #[test]\n    fn s{n:02}_works() {{}}\n")).collect();
    assert_eq!(faults(&good, &sources), Vec::<String>::new());
    let change = |from: &str, to: &str| faults(&good.replace(from, to), &sources);
    assert_eq!(change("| S07 | text | `s07_works` |\n", ""), ["S07 has 0 lines"]);
    assert_eq!(change("`s07_works`", ""), ["S07 names no test"]);
    assert_eq!(change("`s07_works`", "`s07_breaks`"), ["S07 names s07_breaks, which is no test"]);
    assert_eq!(change("`s07_works`", "`s08_works`"), ["S07 names s08_works, which is not named after it"]);
    let both = good.replace("`s07_works`", "`s06_s07_work`");
    let test = format!("{sources}#[test]\nfn s06_s07_work() {{}}\n");
    assert_eq!(faults(&both, &test), Vec::<String>::new());
    let ignored = sources.replace("#[test]\n    fn s07", "#[test]\n    #[ignore = \"later\"]\n    fn s07");
    assert_eq!(faults(&good, &ignored), ["S07 names s07_works, which is no test"]);
    let helper = sources.replace("#[test]\n    fn s07", "fn s07");
    assert_eq!(faults(&good, &helper), ["S07 names s07_works, which is no test"]);
}
