//! What the host sees of a run: output, exit status, safety of its files, and no process left behind.
//!
//! Owns the cases that start guests from the host; what is promised inside is in `tests/tests/kernel_lab.rs`.
//! `PRIMEWAY_LAB_RUNS` names the kernel; without it the cases are ignored.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

type Case = (&'static str, fn() -> Result<()>);

const CASES: &[Case] = &[
    ("output_and_status_are_passed_on", output_and_status_are_passed_on),
    ("large_output_arrives_whole_and_unchanged", large_output_arrives_whole_and_unchanged),
    ("a_command_that_cannot_start_has_a_shells_status", a_command_that_cannot_start_has_a_shells_status),
    ("host_files_are_safe", host_files_are_safe),
    ("another_user_can_run", another_user_can_run),
    ("environment_is_the_documented_one", environment_is_the_documented_one),
    ("a_name_with_a_space_works", a_name_with_a_space_works),
    ("a_name_in_use_is_refused", a_name_in_use_is_refused),
    ("timeout_leaves_no_process", timeout_leaves_no_process),
    ("interrupt_leaves_no_process", interrupt_leaves_no_process),
    ("the_labs_own_death_leaves_no_process", the_labs_own_death_leaves_no_process),
    ("a_panic_ends_the_run_with_a_message", a_panic_ends_the_run_with_a_message),
    ("a_guest_that_does_not_power_off_is_killed", a_guest_that_does_not_power_off_is_killed),
    ("two_runs_at_once", two_runs_at_once),
    ("vkms_none_gives_no_vkms", vkms_none_gives_no_vkms),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each case looks for processes that are left.
    arguments.test_threads = Some(1);
    let kernel = std::env::var_os("PRIMEWAY_LAB_RUNS").is_some();
    if !kernel {
        println!("lab_runs: not run here, `cargo lab test` runs it with the lab's kernel");
    }
    let trials = CASES.iter().map(|(name, case)| {
        Trial::test(*name, move || case().map_err(|err| Failed::from(format!("{err:#}"))))
            .with_ignored_flag(!kernel)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// `lab ARGUMENTS`, with the kernel under test.
fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command
        .args(arguments)
        .env("PRIMEWAY_LAB_KERNEL", std::env::var_os("PRIMEWAY_LAB_RUNS").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Result<Output> {
    Ok(lab(arguments).output()?)
}

fn expect(output: &Output, status: i32) -> Result<()> {
    ensure!(
        output.status.code() == Some(status),
        "{} instead of {status}; stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn output_and_status_are_passed_on() -> Result<()> {
    let output = run(&["exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    expect(&output, 7)?;
    ensure!(output.stdout == b"out\n", "stdout {:?}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.stderr == b"err\n", "stderr {:?}", String::from_utf8_lossy(&output.stderr));
    expect(&run(&["exec", "--", "sh", "-c", "kill -9 $$"])?, 137)
}

fn large_output_arrives_whole_and_unchanged() -> Result<()> {
    // All byte values, so that any translation of line ends or control characters shows.
    let script = "i=0; while [ $i -lt 300 ]; do head -c 3000 /bin/busybox /bin/sh | tail -c 3000; printf '\\r\\n\\003\\004'; i=$((i+1)); done";
    let output = run(&["exec", "--", "sh", "-c", script])?;
    expect(&output, 0)?;
    let same = Command::new("sh").args(["-c", script]).output()?;
    ensure!(output.stdout == same.stdout, "{} bytes instead of {}", output.stdout.len(), same.stdout.len());
    Ok(())
}

fn a_command_that_cannot_start_has_a_shells_status() -> Result<()> {
    let output = run(&["exec", "--", "/nonexistent/program"])?;
    expect(&output, 127)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("cannot start /nonexistent/program"), "stderr: {text}");
    expect(&run(&["exec", "--", "/etc/passwd"])?, 126)
}

fn host_files_are_safe() -> Result<()> {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let dir = scratch.path();
    for name in ["removed", "overwritten", "appended", "renamed", "chmodded"] {
        fs::write(dir.join(name), "the host's")?;
    }
    fs::create_dir(dir.join("folder"))?;
    fs::write(dir.join("folder/inside"), "the host's")?;
    let before = snapshot(dir)?;
    let script = format!(
        "set -e; cd {}; rm removed; echo x > overwritten; echo x >> appended; mv renamed new; chmod 0 chmodded; \
         mv folder folder2; rm -r folder2; mkdir made; echo x > /etc/passwd; rm -r /usr/share/doc; sync; \
         test ! -e removed; test \"$(cat overwritten)\" = x; echo artefact > $PRIMEWAY_ARTEFACTS/left; echo all done",
        dir.display()
    );
    let output = run(&["exec", "--name", "test-safe", "--", "sh", "-c", &script])?;
    expect(&output, 0)?;
    ensure!(
        output.stdout == b"all done\n",
        "the guest did not get through: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let after = snapshot(dir)?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    ensure!(
        fs::metadata("/etc/passwd")?.len() > 10 && Path::new("/usr/share/doc").is_dir(),
        "the system was changed"
    );
    let left =
        fs::read_to_string(runs().join("test-safe/left")).context("the artefact did not reach the host")?;
    ensure!(left == "artefact\n", "the artefact holds {left:?}");
    Ok(())
}

/// Relative path, mode, content of everything below `dir`.
fn snapshot(dir: &Path) -> Result<Vec<(PathBuf, u32, Option<String>)>> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let content = if meta.is_file() { Some(fs::read_to_string(&path)?) } else { None };
        if meta.is_dir() {
            found.extend(snapshot(&path)?);
        }
        found.push((path, meta.permissions().mode(), content));
    }
    found.sort();
    Ok(found)
}

fn runs() -> PathBuf {
    lab::layout::runs()
}

fn another_user_can_run() -> Result<()> {
    let script = "id -u; id -G; stat -c '%u %a' $XDG_RUNTIME_DIR; touch /root/x 2>/dev/null || echo refused";
    let output = run(&["exec", "--uid", "1000", "--", "sh", "-c", script])?;
    expect(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text == "1000\n1000\n1000 700\nrefused\n", "{text}");
    Ok(())
}

fn environment_is_the_documented_one() -> Result<()> {
    let script = "echo $PRIMEWAY_LAB $LIBSEAT_BACKEND $XDG_RUNTIME_DIR $PRIMEWAY_MINE \"[$OTHER]\" $HOME; pwd; test -w \"$PRIMEWAY_ARTEFACTS\"";
    let mut command = lab(&["exec", "--", "sh", "-c", script]);
    let output =
        command.env("PRIMEWAY_MINE", "mine").env("OTHER", "other").current_dir("/usr/share").output()?;
    expect(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text == "1 seatd /run/user/0 mine [] /run/home/0\n/usr/share\n", "{text}");
    Ok(())
}

fn a_name_with_a_space_works() -> Result<()> {
    let output = run(&[
        "exec",
        "--name",
        "test with space",
        "--",
        "sh",
        "-c",
        "echo x > \"$PRIMEWAY_ARTEFACTS/left\"",
    ])?;
    expect(&output, 0)?;
    ensure!(runs().join("test with space/left").is_file(), "no artefact");
    Ok(())
}

fn a_name_in_use_is_refused() -> Result<()> {
    let mut first = started(&["exec", "--name", "test-used", "--", "sleep", "100"], "test-used")?;
    let output = run(&["exec", "--name", "test-used", "--", "true"])?;
    signal(&first, "-TERM")?;
    first.wait()?;
    expect(&output, 125)?;
    no_process_left()
}

/// Starts a run and waits until its command does (its first output line).
fn started(arguments: &[&str], name: &str) -> Result<Child> {
    let log = runs().join(name).join("kernel.log");
    let _ = fs::remove_file(&log);
    let child = lab(arguments).stdout(Stdio::null()).spawn()?;
    let begin = Instant::now();
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("seatd started")) {
        ensure!(begin.elapsed() < Duration::from_secs(20), "the guest of {name} does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

fn signal(child: &Child, signal: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", "kill $0 $1", signal, &child.id().to_string()]).status()?;
    ensure!(status.success(), "kill {signal} failed");
    Ok(())
}

/// No kernel of a run is left whose folder is one of these tests', nor a process below one.
fn no_process_left() -> Result<()> {
    let begin = Instant::now();
    loop {
        let left = guests()?;
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(3) {
            bail!("processes left behind: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that run with one of these tests' run folders as working folder: the kernel and its userspace.
fn guests() -> Result<Vec<(String, OsString)>> {
    let tests = runs().canonicalize()?.join("test-");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(folder) = fs::read_link(entry.path().join("cwd")) else { continue };
        if folder.to_string_lossy().starts_with(&*tests.to_string_lossy()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((name.trim().to_owned(), entry.file_name()));
        }
    }
    Ok(found)
}

fn timeout_leaves_no_process() -> Result<()> {
    let script = "sleep 100 & sleep 100";
    let output = run(&["exec", "--name", "test-timeout", "--timeout", "2.5", "--", "sh", "-c", script])?;
    expect(&output, 124)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("timeout after 2.5 s") && text.contains("kernel.log"), "stderr: {text}");
    no_process_left()
}

fn interrupt_leaves_no_process() -> Result<()> {
    for (name, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let mut child =
            started(&["exec", "--name", "test-interrupt", "--", "sleep", "100"], "test-interrupt")?;
        ensure!(!guests()?.is_empty(), "the check for processes sees none while the guest runs");
        signal(&child, name)?;
        let ended = child.wait()?;
        ensure!(ended.code() == Some(status), "{ended} after {name}");
        no_process_left()?;
    }
    Ok(())
}

fn the_labs_own_death_leaves_no_process() -> Result<()> {
    let mut child = started(&["exec", "--name", "test-death", "--", "sleep", "100"], "test-death")?;
    child.kill()?;
    child.wait()?;
    no_process_left()
}

fn a_panic_ends_the_run_with_a_message() -> Result<()> {
    // Process 1's stack is overwritten: it dies, and a kernel without process 1 panics.
    let script = "range=$(grep '\\[stack\\]' /proc/1/maps | cut -d' ' -f1); start=$((0x${range%-*})); end=$((0x${range#*-})); \
        tr '\\0' A < /dev/zero | dd of=/proc/1/mem bs=4096 seek=$((start/4096)) count=$(((end-start)/4096)) iflag=fullblock conv=notrunc";
    let output = run(&["exec", "--name", "test-panic", "--timeout", "30", "--", "bash", "-c", script])?;
    expect(&output, 125)?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("kernel panic") && text.contains("kernel.log"), "stderr: {text}");
    no_process_left()
}

fn a_guest_that_does_not_power_off_is_killed() -> Result<()> {
    // The answer of process 1 is there, but the guest goes on.
    let script = r#"echo '{"exit":3}' > $PRIMEWAY_ARTEFACTS/answer.json; sync; sleep 100"#;
    let begin = Instant::now();
    let output = run(&["exec", "--name", "test-lingering", "--timeout", "60", "--", "sh", "-c", script])?;
    expect(&output, 3)?;
    ensure!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("does not power off"), "stderr: {text}");
    no_process_left()
}

fn two_runs_at_once() -> Result<()> {
    let script = "echo $PRIMEWAY_ARTEFACTS; sleep 1; ls /dev/dri | tr '\\n' ' '";
    let children: Vec<Child> =
        (0..2).map(|_| lab(&["exec", "--", "sh", "-c", script]).spawn()).collect::<std::io::Result<_>>()?;
    let mut folders = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        expect(&output, 0)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (folder, devices) = text.split_once('\n').context("no output")?;
        ensure!(devices == "card0 card1 renderD128 ", "devices: {devices}");
        folders.push(folder.to_owned());
    }
    ensure!(folders[0] != folders[1], "both ran in {}", folders[0]);
    Ok(())
}

fn vkms_none_gives_no_vkms() -> Result<()> {
    let output = run(&["exec", "--vkms", "none", "--", "ls", "/sys/devices/faux"])?;
    expect(&output, 0)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("vgem") && !text.contains("lab0"), "{text}");
    let wrong = run(&["exec", "--vkms", "crtc=1", "--", "true"])?;
    expect(&wrong, 125)?;
    ensure!(String::from_utf8_lossy(&wrong.stderr).contains("unknown item `crtc=1`"), "no reason");
    Ok(())
}
