//! What a user of this crate gets with it: no toolkit, unless asked for.
#![allow(clippy::unwrap_used, reason = "helper of a test")]

use std::process::Command;

fn tree(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--prefix", "none", "--package", env!("CARGO_PKG_NAME")])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn has(tree: &str, package: &str) -> bool {
    tree.lines().any(|line| line.split(' ').next() == Some(package))
}

#[test]
fn smithay_comes_only_with_its_feature() {
    let default = tree(&[]);
    assert!(has(&default, "drm-ffi"), "{default}");
    // Not for the crate's own tests and examples either.
    for package in ["smithay", "wayland-server", "wayland-client", "gbm"] {
        assert!(!has(&default, package), "{package} by default:\n{default}");
    }
    let used = tree(&["--edges", "normal"]);
    assert!(has(&used, "drm-ffi") && !has(&used, "drm"), "{used}");
    let with_smithay = tree(&["--features", "smithay"]);
    assert!(has(&with_smithay, "smithay"), "{with_smithay}");
    assert!(!has(&with_smithay, "gbm"), "the exporter needs no gbm:\n{with_smithay}");
}
