//! `primeway replay`: what it exits with and says, by recordings made in the lab and by files that are none.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings")
}

fn replay(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_primeway"));
    command.arg("replay").arg(file).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The recordings in the folder, of real drivers, are planned as they were: a change of the planner that was not meant, or a
/// recording of a bug that has been mended, is seen here.
#[test]
fn every_recording_is_planned_as_it_was() {
    let mut count = 0;
    for entry in std::fs::read_dir(recordings()).unwrap() {
        let path = entry.unwrap().path();
        let output = replay(&path, &["--quiet"]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), text(&output.stdout));
        let last = text(&output.stdout);
        assert!(last.contains(" 0 differ from the recording, 0 questions without an answer"), "{last}");
        assert!(!last.starts_with("0 plans"), "{}", path.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_same_windows_on_another_device_are_another_plan() {
    let file = recordings().join("vkms-windows.jsonl");
    let caps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities/rockchip.json");
    let output = replay(&file, &["--against", caps.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("DIFFERS"));
}

#[test]
fn files_that_are_no_recordings_are_refused_by_line() {
    let good = std::fs::read_to_string(recordings().join("vkms-windows.jsonl")).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let head = lines[0];
    let scene = *lines.iter().find(|line| line.starts_with("{\"scene\"")).unwrap();
    let long = format!("{head}\n{}\n", " ".repeat((16 << 20) + 1));
    let cases: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), "line 1: is not there"),
        ("text", "hello\n".into(), "line 1: expected value"),
        ("other", "{\"a\": 1}\n".into(), "line 1: unknown variant"),
        ("no-head", format!("{scene}\n"), "line 1: is no head"),
        ("version", format!("{}\n", head.replace("\"version\":1", "\"version\":9")), "line 1: has version 9"),
        ("two-heads", format!("{head}\n{head}\n"), "line 2: is a second head"),
        ("no-planes", format!("{head}\n{scene}\n"), "line 2: is about"),
        ("truncated", good[..good.len() - 40].to_owned(), "ends in its middle"),
        ("garbage", format!("{head}\n{}\n\u{0}\u{1}\n", lines[1]), "line 3: expected value"),
        ("number", good.replacen("\"now\":", "\"now\":-", 1), "line 3: invalid value"),
        ("layers", good.replacen("\"layers\":[{", "\"layers\":[],\"x\":[{", 1), "has a plan of other layers"),
        ("long", long, "line 2: is longer than any line"),
    ];
    for (name, contents, expected) in cases {
        let path = std::env::temp_dir().join(format!("primeway-bad-{name}-{}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        let output = replay(&path, &[]);
        std::fs::remove_file(&path).unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.contains(path.to_str().unwrap()), "{name}: {message}");
    }
    let missing = replay(Path::new("/nonexistent/recording"), &[]);
    assert_eq!(missing.status.code(), Some(1));
    let against = replay(&recordings().join("vkms-windows.jsonl"), &["--against", "/dev/null"]);
    assert_eq!(against.status.code(), Some(1));
    assert!(text(&against.stderr).contains("is no capability file"), "{}", text(&against.stderr));
}

#[test]
fn a_capability_file_that_cannot_be_is_refused_with_its_reason() {
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/capabilities/rockchip.json");
    let good = std::fs::read_to_string(good).unwrap();
    let cases = [
        ("version", good.replacen("\"version\": 1", "\"version\": 2", 1), "has version 2"),
        ("truncated", good[..good.len() / 2].to_owned(), "EOF while parsing"),
        ("member", good.replacen("\"driver\"", "\"drivers\"", 1), "unknown field `drivers`"),
        ("format", good.replacen("\"XR24\"", "\"XR2\"", 1), "not four letters"),
        ("modifier", good.replacen("\"0x0\"", "\"linear\"", 1), "is not 0x"),
        ("mask", good.replacen("\"crtcs\": 7", "\"crtcs\": 8", 1), "names none, or one that is not there"),
        ("mode", good.replacen("1920x1080@60", "1920x1080", 1), "is not WIDTHxHEIGHT@HZ"),
        ("kind", good.replacen("\"HDMI-A\"", "\"SCART\"", 1), "is no connector"),
        ("scaling", good.replacen("[8192, 524288]", "[8192, 1]", 1), "are no bounds"),
    ];
    for (name, contents, expected) in cases {
        let path = std::env::temp_dir().join(format!("primeway-caps-{name}-{}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        let recording = recordings().join("vkms-windows.jsonl");
        let output = replay(&recording, &["--against", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {message}");
        assert!(message.contains(expected), "{name}: {message}");
    }
}
