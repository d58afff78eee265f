//! The tables of errors in the documentation: whole, and their tests exist.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use wayland_protocols::wp::alpha_modifier::v1::client::{
    wp_alpha_modifier_surface_v1 as alpha_surface, wp_alpha_modifier_v1 as alpha_manager,
};
use wayland_protocols::wp::color_representation::v1::client::{
    wp_color_representation_manager_v1 as color_manager, wp_color_representation_surface_v1 as color_surface,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1 as params;
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_manager_v1 as syncobj_manager, wp_linux_drm_syncobj_surface_v1 as syncobj_surface,
};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_manager_v1 as tearing_manager;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

/// The XML's name of an error: as the enum's, in its own spelling.
fn name(error: impl Debug) -> String {
    let mut name = String::new();
    for letter in format!("{error:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// The errors of an enum whose codes begin with `first`.
fn errors<E: TryFrom<u32> + Debug>(first: u32) -> Vec<String> {
    (first..).map_while(|code| E::try_from(code).ok()).map(name).collect()
}

/// Checks the table in a module: its errors in some order are the `expected` ones, its tests exist.
fn check(module: &str, mut expected: Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = read(&root.join(module));
    let mut files = Vec::new();
    sources(root, &mut files);
    let code: String = files.iter().map(|path| read(path)).collect();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .map(|line| line.trim_end_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let mut errors = Vec::new();
    for row in rows.iter().filter(|row| row[0] != "error") {
        let [error, _, tests] = row[..] else { panic!("not three cells: {row:?}") };
        errors.push(error.to_owned());
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{error} has no test");
        for test in tests {
            let found = code.match_indices(&format!("fn {test}(")).any(|(at, _)| {
                let before = code[..at].lines().rev().map(str::trim).filter(|line| !line.is_empty());
                before.take_while(|line| line.starts_with("#[")).any(|line| line == "#[test]")
            });
            assert!(found, "{error}: there is no test {test}");
        }
    }
    errors.sort();
    expected.sort();
    assert_eq!(errors, expected, "{module}");
}

#[test]
fn every_error_of_linux_dmabuf_is_documented_with_tests_that_exist() {
    let mut expected = errors::<params::Error>(0);
    assert!(expected.len() >= 9, "{expected:?}");
    expected.push("(`failed`)".to_owned());
    check("src/linux_dmabuf/mod.rs", expected);
}

#[test]
fn every_error_of_drm_syncobj_is_documented_with_tests_that_exist() {
    let mut expected = errors::<syncobj_manager::Error>(0);
    expected.extend(errors::<syncobj_surface::Error>(1));
    assert_eq!(expected.len(), 8, "{expected:?}");
    check("src/drm_syncobj/mod.rs", expected);
}

#[test]
fn every_error_of_tearing_control_is_documented_with_tests_that_exist() {
    check("src/tearing_control.rs", errors::<tearing_manager::Error>(0));
}

#[test]
fn every_error_of_color_representation_is_documented_with_tests_that_exist() {
    let mut expected = errors::<color_manager::Error>(1);
    expected.extend(errors::<color_surface::Error>(1));
    assert_eq!(expected.len(), 6, "{expected:?}");
    check("src/color_representation/mod.rs", expected);
}

#[test]
fn every_error_of_alpha_modifier_is_documented_with_tests_that_exist() {
    let mut expected = errors::<alpha_manager::Error>(0);
    expected.extend(errors::<alpha_surface::Error>(0));
    assert_eq!(expected.len(), 2, "{expected:?}");
    check("src/alpha_modifier.rs", expected);
}
