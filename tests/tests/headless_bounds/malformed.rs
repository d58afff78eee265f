//! The table of malformed sequences on the headless backend.

use primeway_tests::client::malformed::{self, Environment};

use crate::headless_support::neighbour::Neighbour;
use crate::headless_support::{Server, memory};

use super::{OUTPUT, alone, assert_files_return, files};

#[test]
fn every_malformed_sequence_has_the_outcome_of_the_table() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let before = files(&server);
    let mut outcomes = Vec::new();
    for (number, case) in (0..).zip(malformed::cases()) {
        let raw = server.connect_raw().unwrap();
        let outcome = malformed::outcome(&case, raw, memory(64 * 64 * 4), Environment::Headless).unwrap();
        outcomes.push((case.name, outcome));
        // Somebody else's frames go on.
        neighbour.frame(number);
    }
    assert!(outcomes.len() >= 60, "only {}", outcomes.len());
    let bless = std::env::var_os("PRIMEWAY_BLESS").map(|_| malformed::table());
    malformed::compare(Environment::Headless, &outcomes, bless.as_deref()).unwrap();
    assert_files_return(&server, before);
}

#[test]
fn each_sequence_has_a_name_of_its_own() {
    let mut names: Vec<_> = malformed::cases().iter().map(|case| case.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(malformed::table().is_file());
}
