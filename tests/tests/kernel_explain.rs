//! What `primeway explain`, `planes`, `check` and `report` say on a kernel, as programs: which plane shows which window, and why
//! the others do not, beside what the kernel says.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result, ensure};
use lab::vkms::Device;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::kernel_cases::{self, Case};
use primeway_tests::session::{artefacts, sibling_program};
use primeway_tests::stage::Stage;
use serde_json::Value;

const CASES: &[Case] = &[
    ("three_windows_and_two_overlays_are_explained", three_windows),
    ("a_device_is_probed_with_and_without_another_master", probe),
    ("a_watch_sees_a_window_come_and_go_until_the_session_ends", watch),
    ("a_session_of_another_user_says_so", another_user),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

/// Runs a program of primeway's against a compositor.
fn ask(stage: &Stage, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(sibling_program("primeway")?);
    command.args(arguments).env("WAYLAND_DISPLAY", &stage.compositor.display).env_remove("PRIMEWAY_SOCKET");
    command.output().with_context(|| format!("{arguments:?}"))
}

fn json(stage: &Stage, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = ask(stage, arguments)?;
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), answer))
}

/// The kinds of refusals by plane; `shows` for the plane that shows it.
fn kinds(surface: &Value) -> Result<BTreeMap<u64, String>> {
    let planes = surface["planes"].as_array().context("no planes")?;
    let kind = |plane: &Value| {
        let id = plane["plane"].as_u64().context("no plane id")?;
        let kind = if plane["shows"] == true {
            "shows"
        } else {
            plane["refusal"]["kind"].as_str().unwrap_or("none")
        };
        Ok((id, kind.to_owned()))
    };
    planes.iter().map(kind).collect()
}

fn three_windows() -> Result<()> {
    let device = Device::create("explain", &"overlays=2,writeback".parse()?)?;
    let node = device.card_node()?;
    let node = node.to_str().context("node")?;
    let mut stage = Stage::start_with("explain", &["--renderer", "pixman", "--device", node])?;
    // With alpha, so that the primary plane shows none of them on the background of the CRTC.
    for seed in 0..3 {
        stage.add_noise("AR24", seed, (200, 150), &[])?;
    }
    let pids: Vec<i32> = stage.clients.iter().map(|client| client.pid()).collect();
    // Until the planner has come to rest.
    std::thread::sleep(std::time::Duration::from_millis(500));
    stage.compositor.check_alive()?;

    let (status, report) = json(&stage, &["explain", "--all", "--json"])?;
    ensure!(status == Some(3) && report["scanned_out"] == false, "{status:?}: {report:#}");
    let surfaces = report["surfaces"].as_array().context("no surfaces")?;
    ensure!(surfaces.len() == 3, "{report:#}");
    let stats = stage.stats()?;
    let planes = &stats.outputs[0].planes;
    let of =
        |kind: &str| planes.iter().filter(|p| p.kind == kind).map(|p| u64::from(p.id)).collect::<Vec<_>>();
    let (primary, overlays) = (of("Primary")[0], of("Overlay"));
    let mut on = BTreeMap::new();
    let mut left = Vec::new();
    for surface in surfaces {
        match surface["verdict"]["plane"].as_u64() {
            Some(plane) => drop(on.insert(plane, surface)),
            None => left.push(surface),
        }
    }
    ensure!(
        on.keys().copied().collect::<Vec<_>>() == overlays,
        "on planes {:?}, not {overlays:?}",
        on.keys()
    );
    let [left] = left.as_slice() else { anyhow::bail!("{} are left", left.len()) };
    ensure!(left["verdict"]["way"] == "composited", "{left:#}");
    let said = kinds(left)?;
    let expected: BTreeMap<u64, String> = overlays
        .iter()
        .map(|plane| (*plane, "taken".to_owned()))
        .chain([(primary, "not-opaque".to_owned())])
        .collect();
    ensure!(said == expected, "{said:?}, not {expected:?}");
    for (plane, surface) in &on {
        let mut expected: BTreeMap<u64, String> =
            overlays.iter().map(|other| (*other, "taken".to_owned())).collect();
        expected.insert(*plane, "shows".to_owned());
        expected.insert(primary, "not-opaque".to_owned());
        ensure!(kinds(surface)? == expected, "{:?}, not {expected:?}", kinds(surface)?);
        // Each refusal of the one that is left names who has that plane.
        let pid = surface["pid"].as_i64().context("no pid")?;
        let text = left["planes"].as_array().and_then(|all| all.iter().find(|p| p["plane"] == *plane));
        let text = text.and_then(|p| p["refusal"]["text"].as_str()).unwrap_or_default();
        ensure!(text == format!("the plane shows primeway-test-client (pid {pid})"), "{text}");
        let alone = ask(&stage, &["explain", "--pid", &pid.to_string()])?;
        ensure!(alone.status.code() == Some(0), "{alone:?}");
        let said = String::from_utf8_lossy(&alone.stdout).into_owned();
        ensure!(said.contains(&format!("VERDICT  scanned out by plane {plane} since ")), "{said}");
    }
    // What is said is what the kernel says: each overlay shows another framebuffer, that of its client.
    let (_, listed) = json(&stage, &["planes", "--json"])?;
    let rows = listed["outputs"][0]["planes"].as_array().context("no rows")?;
    let kernel = DebugDevice::of_node(&device.card_node()?)?.planes()?;
    for row in rows {
        let id = row["plane"].as_u64().context("no plane id")?;
        let shown =
            kernel.iter().find(|plane| u64::from(plane.id) == id).context("the kernel has no such plane")?;
        let fb = shown.framebuffer.as_ref().map(|fb| u64::from(fb.id));
        ensure!(row["shows"]["fb"].as_u64() == fb, "plane {id} shows {fb:?}: {row:#}");
    }
    statuses(&stage, &pids)?;
    page(&stage)
}

/// The exit statuses of all that a script would run.
fn statuses(stage: &Stage, pids: &[i32]) -> Result<()> {
    let status = |arguments: &[&str]| Ok::<_, anyhow::Error>(ask(stage, arguments)?.status.code());
    let none = pids.iter().max().map_or(1, |pid| pid + 1000).to_string();
    for (arguments, expected) in [
        (["explain", "--pid", none.as_str()].as_slice(), 1),
        (&["explain", "--pid", "x"], 2),
        (&["explain", "--all", "--pid", "1"], 2),
        (&["check", "--require-scanout", "primeway-test-client"], 3),
        (&["check", "--require-scanout", "nobody"], 1),
        (&["check"], 2),
        (&["buffers"], 0),
        (&["planes"], 0),
        (&["counters"], 0),
        (&["counters", "--json"], 0),
        (&["report", "--json", "-o", "-"], 0),
        (&["report", "-o", "/nonexistent/report.html"], 1),
        (&["report"], 2),
        // Its output is no terminal.
        (&["top"], 1),
    ] {
        ensure!(status(arguments)? == Some(expected), "{arguments:?}: {:?}", status(arguments)?);
    }
    Ok(())
}

fn page(stage: &Stage) -> Result<()> {
    let file = artefacts().join("report.html");
    let made = ask(stage, &["report", "-o", file.to_str().context("path")?])?;
    ensure!(made.status.success(), "{made:?}");
    let html = std::fs::read_to_string(&file)?;
    for part in ["<svg ", "primeway-test-client (pid ", "driver <b>vkms</b>", "the plane shows "] {
        ensure!(html.contains(part), "{part} is missing in {}", file.display());
    }
    ensure!(!html.contains("primeway test client"), "a title is in {}", file.display());
    Ok(())
}

/// Runs `primeway probe`, and returns its exit status and what it printed.
fn run_probe(node: &str, specs: &[&str]) -> Result<(Option<i32>, Value)> {
    let mut command = Command::new(sibling_program("primeway")?);
    let output = command.args(["probe", "--json", "--device", node, "--"]).args(specs).output()?;
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)))
}

/// The answers of all planes in the memory of one exporter, in the order of the rows.
fn answers(report: &Value, exporter: &str) -> Result<Vec<Vec<String>>> {
    let rows = report["rows"].as_array().context("no rows")?;
    let of_row = |row: &Value| {
        let mut cells = row["cells"].as_array().into_iter().flatten();
        let cell = cells.find(|cell| cell["exporter"] == exporter).with_context(|| format!("{row:#}"))?;
        let planes = cell["planes"].as_array().into_iter().flatten();
        Ok(planes.map(|plane| plane["answer"].as_str().unwrap_or_default().to_owned()).collect())
    };
    rows.iter().map(of_row).collect()
}

/// A device says what it takes; while a compositor has it, imports and framebuffers only.
fn probe() -> Result<()> {
    const SPECS: [&str; 3] = ["640x480:NV12:LINEAR", "64x64:XR24:I915_X_TILED", "1024x768:XR24"];
    let device = Device::create("probed", &"overlays=1,cursor,writeback".parse()?)?;
    let node = device.card_node()?;
    let node = node.to_str().context("node")?;
    let (status, free) = run_probe(node, &SPECS)?;
    ensure!(
        status == Some(0) && free["driver"] == "vkms" && free["not_asked"].is_null(),
        "{status:?}: {free:#}"
    );
    for exporter in ["own", "vgem", "udmabuf"] {
        let all = answers(&free, exporter)?;
        let [nv12, tiled, full] = all.as_slice() else { anyhow::bail!("{all:?}") };
        let count = |planes: &[String], answer: &str| planes.iter().filter(|a| *a == answer).count();
        // The primary plane and the overlay; the cursor plane of vkms has no NV12.
        ensure!(count(nv12, "takes") >= 1 && nv12.len() == 3, "{exporter}: {all:?} in {free:#}");
        ensure!(count(full, "takes") >= 2, "{exporter}: {all:?}");
        ensure!(count(tiled, "takes") == 0, "{exporter}: {all:?}");
    }
    let tiled = &free["rows"][1]["cells"][0];
    ensure!(tiled["ended_at"] == "addfb2" && tiled["reason"].is_string(), "{tiled:#}");

    let mut stage = Stage::start_with("probed", &["--renderer", "pixman", "--device", node])?;
    let (status, busy) = run_probe(node, &SPECS)?;
    ensure!(status == Some(0), "{status:?}: {busy:#}");
    ensure!(
        busy["not_asked"] == "no plane could be asked: another program is master of the device",
        "{busy:#}"
    );
    for exporter in ["own", "vgem"] {
        let all = answers(&busy, exporter)?;
        let listed = all[0].iter().filter(|answer| *answer != "not-listed");
        let listed: Vec<&String> = listed.collect();
        ensure!(!listed.is_empty() && listed.iter().all(|a| *a == "not-asked"), "{exporter}: {all:?}");
    }
    stage.compositor.check_alive()?;
    probe_file(node)?;
    for bad in [["64:XR24"], ["64x64:NONE"], ["0x0:XR24"]] {
        ensure!(run_probe(node, &bad)?.0 == Some(1), "{bad:?}");
    }
    ensure!(run_probe("/dev/null", &SPECS)?.0 == Some(1), "no device");
    Ok(())
}

/// `probe FILE`: the specs of a file, and those of the command line behind them; what is wrong is named by its line.
fn probe_file(node: &str) -> Result<()> {
    let file = artefacts().join("specs.txt");
    let probe = |text: &str, more: &[&str]| -> Result<Output> {
        std::fs::write(&file, text)?;
        let mut command = Command::new(sibling_program("primeway")?);
        Ok(command.args(["probe", "--json", "--device", node]).arg(&file).args(more).output()?)
    };
    let output =
        probe("# what we show\n\n640x480:NV12:LINEAR # video\n 64x64:XR24\n", &["--", "32x32:AR24"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let rows = report["rows"].as_array().context("no rows")?;
    let asked: Vec<_> = rows.iter().map(|row| (&row["size"][0], row["format"].as_str())).collect();
    let expected = [(640, "NV12"), (64, "XR24"), (32, "AR24")];
    ensure!(
        asked.len() == 3 && asked.iter().zip(expected).all(|(a, e)| *a.0 == e.0 && a.1 == Some(e.1)),
        "{asked:?}"
    );
    for (text, words) in [
        ("64x64:XR24\n64x64\n", "specs.txt: line 2: `64x64` has no format"),
        ("# nothing\n", "specs.txt: no spec is in it"),
        ("64x64:XR24\u{0}\n", "specs.txt: line 1: "),
    ] {
        let output = probe(text, &[])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains(words), "{text:?}: {output:?}");
    }
    std::fs::write(&file, [0xff, 0xfe, 0x00])?;
    let mut command = Command::new(sibling_program("primeway")?);
    let output = command.args(["probe", "--device", node]).arg(&file).output()?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

/// Waits until what a program has written to a file has so many lines with `words`, and returns all of it.
fn written(file: &std::path::Path, words: &str, count: usize) -> Result<String> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(file)?;
        if text.lines().filter(|line| line.contains(words)).count() >= count {
            return Ok(text);
        }
        ensure!(std::time::Instant::now() < deadline, "not {count} times {words:?}: {text}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A window is explained as it comes, when it goes, and when another one comes; the session's end ends the watch.
fn watch() -> Result<()> {
    let mut stage = Stage::start_with("watch", &["--renderer", "pixman"])?;
    let file = artefacts().join("watch.txt");
    let mut command = Command::new(sibling_program("primeway")?);
    command.args(["explain", "--app-id", "primeway-test-client", "--watch"]);
    command.env("WAYLAND_DISPLAY", &stage.compositor.display).env_remove("PRIMEWAY_SOCKET");
    let mut watcher = command.stdout(std::fs::File::create(&file)?).spawn()?;
    const NONE: &str = "no surface that is asked about is shown";
    written(&file, NONE, 1)?;
    stage.add_noise("XR24", 1, (200, 150), &[])?;
    written(&file, "VERDICT  scanned out by plane ", 1)?;
    // The window is closed under the watcher's eyes.
    stage.clients.clear();
    written(&file, NONE, 2)?;
    stage.add_noise("XR24", 2, (200, 150), &[])?;
    written(&file, "VERDICT  ", 2)?;
    ensure!(watcher.try_wait()?.is_none(), "it has ended");
    drop(stage);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let status = loop {
        if let Some(status) = watcher.try_wait()? {
            break status;
        }
        ensure!(std::time::Instant::now() < deadline, "it outlives its session");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    ensure!(matches!(status.code(), Some(0 | 3)), "{status:?}");
    Ok(())
}

/// Another user is told whose the session is.
fn another_user() -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let mut stage = Stage::start_with("others", &["--renderer", "pixman"])?;
    let folder = std::env::var("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR")?;
    let socket = format!("{folder}/primeway-{}.sock", stage.compositor.display);
    let open = |mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode))
    };
    for (mode, words) in [
        (0o711, format!("{socket} is of a session of another user (uid 0): ")),
        (0o700, format!("{socket} is in a folder of another user: ")),
    ] {
        open(mode)?;
        let mut command = Command::new(sibling_program("primeway")?);
        command.args(["explain", "--all", "--socket", &socket]).uid(1000).gid(1000);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{mode:o}: {output:?}");
        ensure!(said.contains(&words), "{mode:o}: {said}");
    }
    stage.compositor.check_alive()
}
