//! The table of `tests/PLANES.md` names tests that exist.

use std::path::{Path, PathBuf};

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_row_says_how_it_is_proven_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("tests/PLANES.md")).unwrap();
    let mut files = Vec::new();
    ["prime", "compositor", "protocols", "tests"].iter().for_each(|f| sources(&root.join(f), &mut files));
    let code: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 10, "{} rows", rows.len());
    for row in rows {
        let [what, how, tests] = row[..] else { panic!("not three cells: {row:?}") };
        assert!(["kernel", "model", "kernel and model"].contains(&how), "{what}: {how}");
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{what} has no test");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "{what}: there is no test {name}");
        }
    }
}
