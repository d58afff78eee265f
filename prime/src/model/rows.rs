//! Which test shows which row of drm_prime.c of about Linux 3.11, in both profiles where they differ. The model has more tests;
//! these are the ones whose names begin with a row.
#![doc = ""]
#![doc = include_str!("rows.md")]

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    /// Names of the tests below a folder, whatever attributes they have.
    fn tests_in(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                tests_in(&path, found);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line == "#[test]";
                let Some(name) = line.strip_prefix("fn ").filter(|_| marked) else { continue };
                found.push(name.split(['(', '<']).next().unwrap().to_owned());
                marked = false;
            }
        }
    }

    /// The row that a test's name begins with, e.g. `S18`.
    fn row_of(name: &str) -> Option<String> {
        let digits = name.strip_prefix('s')?.get(..2)?;
        let ends = name.as_bytes().get(3) == Some(&b'_');
        (ends && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| format!("S{digits}"))
    }

    #[test]
    fn every_row_names_tests_that_exist_and_all_of_them() {
        let mut named = BTreeMap::new();
        for line in include_str!("rows.md").lines().skip(2) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [_, row, _, tests, _] = cells[..] else { panic!("not a row: {line}") };
            let tests: Vec<String> =
                tests.split(", ").map(|test| test.trim_matches('`').to_owned()).collect();
            assert!(named.insert(row.to_owned(), tests).is_none(), "{row} is there twice");
        }
        let rows: Vec<String> = (1..=34).map(|row| format!("S{row:02}")).collect();
        assert_eq!(named.keys().cloned().collect::<Vec<_>>(), rows);
        let mut found = Vec::new();
        tests_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model"), &mut found);
        for (row, tests) in &named {
            for test in tests {
                assert!(found.contains(test), "{row} names {test}, which is no test");
            }
        }
        for test in &found {
            let Some(row) = row_of(test) else { continue };
            assert!(named[&row].contains(test), "{row} does not name {test}");
        }
    }
}
