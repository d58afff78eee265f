//! Virtual terminals: the session is switched away and back while frames are pending.
//!
//! Owns what must survive that; the switch itself is in `primeway_tests::terminals`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use primeway_tests::client::Report;
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::format::Format;
use primeway_tests::picture::{Pattern, Picture};
use primeway_tests::session::RunningClient;
pub use primeway_tests::terminals::{ELSEWHERE, active_terminal, switch_to};

use crate::desktop::{Desktop, Launch, NodeModes, PATIENCE, USER};

/// How often the session is switched away and back.
const SWITCHES: u32 = 20;
/// One switch in so many sees clients come while the session is inactive.
const IMPORT_EVERY: u32 = 4;

/// Waits until the session of `desktop` is active, or is not.
pub fn wait_active(desktop: &Desktop, wanted: bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while desktop.is_active()? != wanted {
        ensure!(Instant::now() < deadline, "the session did not become active={wanted}:\n{}", desktop.log());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn counts(client: &RunningClient) -> Result<Report> {
    client.counts().with_context(|| format!("{} counts nothing: {}", client.name, client.output()))
}

/// Clients that draw all the time, and one at rest whose picture is known.
struct Scene {
    moving: Vec<RunningClient>,
    still: RunningClient,
    picture: Picture,
}

impl Scene {
    fn start(desktop: &mut Desktop) -> Result<Scene> {
        let picture = Picture { pattern: Pattern::Noise(3), width: 200, height: 160, frame: 0 };
        let mut moving = Vec::new();
        for (name, arguments) in [
            ("vgem XR24", ["--alloc", "vgem", "--format", "XR24", "--size", "240x200"]),
            ("udmabuf NV12", ["--alloc", "udmabuf", "--format", "NV12", "--size", "240x200"]),
        ] {
            let client = desktop.client(name, &arguments)?;
            desktop.wait_frames(&client, 10)?;
            moving.push(client);
        }
        let mut still =
            desktop.client("still", &["--static", "--pattern", "noise:3", "--size", "200x160"])?;
        still.wait_presented(PATIENCE)?;
        Ok(Scene { moving, still, picture })
    }

    /// Every client goes on and the one at rest looks as it must.
    fn check(&mut self, desktop: &mut Desktop) -> Result<()> {
        for client in &mut self.moving {
            ensure!(client.is_running(), "{} ended: {}", client.name, client.output());
            let stats = desktop.stats()?;
            let before = stats.surface(client.pid()).map_or(0, |surface| surface.frames_presented);
            desktop.wait_frames(client, before + 5).context("frames do not go on")?;
        }
        let stats = desktop.stats()?;
        let surface = stats.surface(self.still.pid()).context("the window at rest is gone")?;
        let place = (surface.position[0] as u32, surface.position[1] as u32);
        let worst = desktop.capture()?.difference(&self.picture, &Format::named("XR24")?, place)?;
        ensure!(worst.steps == 0.0, "the picture is wrong: {worst:?}");
        Ok(())
    }

    /// Nothing a client committed has got lost: it was shown or discarded, but for what is under way.
    fn check_nothing_lost(&self) -> Result<()> {
        for client in &self.moving {
            let report = counts(client)?;
            let open = report.frames.saturating_sub(report.presented + report.discarded);
            ensure!(open <= 3, "{}: {open} frames without an answer: {report:?}", client.name);
            ensure!(report.errors.is_empty(), "{}: {report:?}", client.name);
        }
        Ok(())
    }
}

/// While another terminal is active nobody is master, and no frame is presented.
fn check_at_rest(desktop: &mut Desktop, scene: &Scene) -> Result<()> {
    let masters: Vec<_> =
        DebugDevice::of_driver("vkms")?.files()?.into_iter().filter(|file| file.master).collect();
    ensure!(masters.is_empty(), "still master while inactive: {masters:?}");
    let mut presented = || -> Result<Vec<u64>> {
        // The flip that was pending at the switch may still come.
        std::thread::sleep(Duration::from_millis(100));
        let stats = desktop.stats()?;
        let of = |client: &RunningClient| stats.surface(client.pid()).map_or(0, |s| s.frames_presented);
        Ok(scene.moving.iter().map(of).collect())
    };
    let (first, second) = (presented()?, presented()?);
    ensure!(first == second, "frames were presented while inactive: {first:?}, then {second:?}");
    Ok(())
}

/// While another terminal is active imports go on, for a client that stays (it is returned) and for one that goes.
fn import_while_inactive(desktop: &mut Desktop) -> Result<RunningClient> {
    let held = desktop.stats()?.resources.gem_handles;
    let mut churn = desktop.client("churn", &["--churn", "64"])?;
    let status = churn.wait_end(PATIENCE)?;
    let report = counts(&churn)?;
    ensure!(status.success() && report.buffers_created == 64, "churn while inactive: {}", churn.output());
    desktop.wait_stats("the end of its imports", |stats| stats.resources.gem_handles == held)?;
    // `create` instead of `create_immed`: a refusal would be told.
    let arguments = ["--static", "--create", "--format", "NV12", "--size", "64x64"];
    let newcomer = desktop.client("newcomer", &arguments)?;
    let pid = newcomer.pid();
    desktop
        .wait_stats("an import while inactive", |stats| {
            stats.surface(pid).is_some() && stats.resources.gem_handles > held
        })
        .with_context(|| newcomer.output())?;
    Ok(newcomer)
}

/// One switch away and back, after `delay`. With `import`, clients come while the session is inactive.
fn one_switch(
    desktop: &mut Desktop,
    scene: &mut Scene,
    home: u32,
    delay: Duration,
    import: bool,
) -> Result<()> {
    std::thread::sleep(delay);
    switch_to(ELSEWHERE)?;
    let away = wait_active(desktop, false)
        .and_then(|()| check_at_rest(desktop, scene))
        .and_then(|()| import.then(|| import_while_inactive(desktop)).transpose());
    // Whatever happened, the other cases need their terminal.
    switch_to(home)?;
    let newcomer = away.context("away")?;
    wait_active(desktop, true)?;
    if let Some(mut newcomer) = newcomer {
        newcomer.wait_presented(PATIENCE).context("what was imported while inactive is not shown")?;
    }
    scene.check(desktop).context("back")
}

/// Twenty switches while flips are pending, as a user who has the card from seatd only: nothing could be opened again.
pub fn vt_switches_lose_and_leak_nothing() -> Result<()> {
    let home = active_terminal()?;
    if home == ELSEWHERE {
        bail!("terminal {ELSEWHERE} should be free");
    }
    let _modes = NodeModes::set(0o600)?;
    let mut desktop = Launch::new("terminals")?.user(USER).arguments(&["--writeback"]).start()?;
    let acquisition = desktop.stats()?.device.acquisition;
    ensure!(acquisition == "empty-lease", "imports go through {acquisition}");
    let mut scene = Scene::start(&mut desktop)?;
    ensure!(desktop.is_active()?, "the session is not active to begin with");
    // Both forms of a new client once, so that what is made once and kept is there.
    let mut warm_up = desktop.client("warm-up", &["--churn", "64"])?;
    warm_up.wait_end(PATIENCE)?;
    scene.check(&mut desktop)?;
    let before = desktop.held()?;
    for round in 0..SWITCHES {
        // A frame is pending nearly all the time; the moment within the frame varies.
        let delay = Duration::from_millis(u64::from(round * 7 % 17));
        one_switch(&mut desktop, &mut scene, home, delay, round % IMPORT_EVERY == 0)
            .with_context(|| format!("switch {round}"))?;
    }
    let after = desktop.held()?;
    ensure!(before == after, "{SWITCHES} switches left something: before {before:?}, after {after:?}");
    scene.check_nothing_lost()?;
    println!("vt_switches_lose_and_leak_nothing: {SWITCHES} switches, {after:?}");
    desktop.check_alive()
}

/// A client on the primary plane itself: each return is a mode set with the client's own buffer.
pub fn a_full_screen_client_survives_switches() -> Result<()> {
    let home = active_terminal()?;
    let mut desktop = Launch::new("full-screen-away")?.start()?;
    let client = desktop.client("full", &["--fullscreen"])?;
    desktop.wait_frames(&client, 10)?;
    let before = desktop.held()?;
    for round in 0..6u32 {
        std::thread::sleep(Duration::from_millis(u64::from(round * 5 % 17)));
        switch_to(ELSEWHERE)?;
        let away = wait_active(&desktop, false);
        switch_to(home)?;
        away?;
        wait_active(&desktop, true)?;
        let back = desktop.wait_frames(&client, 0)?;
        let later = desktop
            .wait_frames(&client, back.frames_presented + 10)
            .with_context(|| format!("frames do not go on after switch {round}"))?;
        let zero_copy = later.frames_zero_copy - back.frames_zero_copy;
        // One frame may be composited while the planes are tested anew.
        ensure!(
            later.plane.is_some() && zero_copy + 1 >= later.frames_presented - back.frames_presented,
            "switch {round}: copied since: {back:?}, then {later:?}"
        );
    }
    let after = desktop.held()?;
    ensure!(before == after, "the switches left something: before {before:?}, after {after:?}");
    desktop.check_alive()
}
