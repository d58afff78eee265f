//! What a client may not do, and what nothing may be left of.

use anyhow::{Context, Result, ensure};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::client::connection::Wire;
use primeway_tests::process::Process;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;

use super::client::{Buffer, Line, PATIENCE, Stage, set_point, set_points, stranger};
use super::device;
use super::leaks::{MANY, Oracle};

const SMALL: (u32, u32) = (64, 64);
const MANAGER: &str = "wp_linux_drm_syncobj_manager_v1";
const SURFACE: &str = "wp_linux_drm_syncobj_surface_v1";

type Bad = fn(&Stage, &mut Wire) -> Result<()>;

/// Error, its object and its code, and what deserves it.
const ERRORS: [(&str, &str, u32, Bad); 11] = [
    ("surface_exists", MANAGER, 0, |_, wire| {
        let surface = wire.bare_surface()?;
        wire.explicit(&surface)?;
        wire.explicit(&surface).map(drop)
    }),
    ("invalid_timeline", MANAGER, 1, |_, wire| wire.import_timeline(stranger()?).map(drop)),
    ("no_surface (acquire)", SURFACE, 1, |stage, wire| after_the_surface(stage, wire, true)),
    ("no_surface (release)", SURFACE, 1, |stage, wire| after_the_surface(stage, wire, false)),
    ("unsupported_buffer", SURFACE, 2, |stage, wire| {
        commit(stage, wire, Some(Allocator::Shm), &[(true, 1), (false, 2)])
    }),
    ("no_buffer (acquire)", SURFACE, 3, |stage, wire| commit(stage, wire, None, &[(true, 1)])),
    ("no_buffer (release)", SURFACE, 3, |stage, wire| commit(stage, wire, None, &[(false, 1)])),
    ("no_acquire_point", SURFACE, 4, |stage, wire| commit(stage, wire, Some(Allocator::Vkms), &[(false, 1)])),
    ("no_acquire_point (neither)", SURFACE, 4, |stage, wire| commit(stage, wire, Some(Allocator::Vkms), &[])),
    ("no_release_point", SURFACE, 5, |stage, wire| commit(stage, wire, Some(Allocator::Vkms), &[(true, 1)])),
    ("conflicting_points", SURFACE, 6, |stage, wire| {
        commit(stage, wire, Some(Allocator::Vkms), &[(true, 2), (false, 2)])
    }),
];

fn after_the_surface(stage: &Stage, wire: &mut Wire, acquire: bool) -> Result<()> {
    let surface = wire.bare_surface()?;
    let explicit = wire.explicit(&surface)?;
    surface.destroy();
    set_point(&explicit, acquire, &stage.line(wire)?, 1);
    Ok(())
}

/// A commit with points on one timeline: whether for acquire, and the value.
fn commit(stage: &Stage, wire: &mut Wire, of: Option<Allocator>, points: &[(bool, u64)]) -> Result<()> {
    let surface = wire.bare_surface()?;
    let explicit = wire.explicit(&surface)?;
    let line = stage.line(wire)?;
    if let Some(allocator) = of {
        surface.attach(Some(&Buffer::new(stage, wire, allocator, SMALL)?.wl), 0, 0);
    }
    for (acquire, point) in points {
        set_point(&explicit, *acquire, &line, *point);
    }
    surface.commit();
    Ok(())
}

/// Every error of the XML on the wire, from a compositor that goes on for another client.
pub fn every_error_has_its_code() -> Result<()> {
    let mut stage = Stage::new("errors", &[])?;
    let mut bystander = stage.connect()?;
    for (name, interface, code, bad) in ERRORS {
        let mut wire = stage.connect()?;
        bad(&stage, &mut wire).with_context(|| name)?;
        let answer = wire.roundtrip();
        let error = wire.error();
        let got = error.as_ref().map(|error| (error.interface.as_str(), error.code));
        ensure!(got == Some((interface, code)), "{name}: {error:?} ({answer:?})");
        bystander.roundtrip().with_context(|| format!("{name}: another client"))?;
        stage.compositor.check_alive()?;
    }
    Ok(())
}

/// The protocol promises explicit synchronisation for every linux-dmabuf buffer, also for one that could not be imported.
pub fn a_failed_buffer_takes_points_as_well() -> Result<()> {
    let stage = Stage::new("failed", &["--limit", "buffers=1"])?;
    let mut wire = stage.connect()?;
    let mut good = Buffer::new(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    let params = wire.params()?;
    let plane = &good.memory.layout[0];
    params.add(good.memory.plane_fd(0), 0, plane.offset, plane.stride, 0, 0);
    let size = (SMALL.0 as i32, SMALL.1 as i32);
    let wl = wire.create_immed(&params, size, good.memory.format.fourcc as u32, Flags::empty());
    let memory = ClientBuffer::allocate(Allocator::Vkms, good.memory.format, SMALL.0, SMALL.1)?;
    let mut failed = Buffer { memory, wl, released: stage.line(&wire)?, uses: 0 };
    wire.roundtrip()?;
    ensure!(wire.events.failed == 1, "{} buffers failed", wire.events.failed);
    let surface = wire.bare_surface()?;
    let explicit = wire.explicit(&surface)?;
    let ready = stage.line(&wire)?;
    for (buffer, point) in [(&mut failed, 1), (&mut good, 2)] {
        ready.ours.signal(point)?;
        set_points(&explicit, (&ready, point), buffer);
        surface.attach(Some(&buffer.wl), 0, 0);
        surface.commit();
    }
    wire.roundtrip()?;
    failed.wait_free()?;
    good.stays_busy()
}

/// Ends with wl_display.no_memory and these words.
fn over_quota(wire: &mut Wire, text: &str) -> Result<()> {
    let answer = wire.roundtrip();
    let error = wire.error();
    let got = error.as_ref().map(|error| (error.interface.as_str(), error.code, error.message.as_str()));
    ensure!(got == Some(("wl_display", 2, text)), "{error:?} ({answer:?}) instead of {text}");
    Ok(())
}

/// A bare surface with a commit that waits for a point.
fn waiting(wire: &mut Wire, ready: (&Line, u64), buffer: &mut Buffer) -> Result<WlSurface> {
    let surface = wire.bare_surface()?;
    let explicit = wire.explicit(&surface)?;
    set_points(&explicit, ready, buffer);
    surface.attach(Some(&buffer.wl), 0, 0);
    surface.commit();
    explicit.destroy();
    Ok(surface)
}

/// Timelines are counted while they live; points that are watched are, too, also for surfaces that are gone.
pub fn timelines_and_watched_points_are_bounded() -> Result<()> {
    let stage = Stage::new("bounds", &["--limit", "timelines=16", "--limit", "commits=8"])?;
    let mut wire = stage.connect()?;
    for _ in 0..100 {
        stage.line(&wire)?.theirs.destroy();
    }
    let lines: Vec<Line> = (0..16).map(|_| stage.line(&wire)).collect::<Result<_>>()?;
    wire.roundtrip().context("16 at a time are allowed")?;
    stage.line(&wire)?;
    over_quota(&mut wire, "16 timelines")?;
    drop(lines);

    let mut wire = stage.connect()?;
    let ready = stage.line(&wire)?;
    let mut buffer = Buffer::new(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    let mut point = 0;
    for round in 0..3 {
        for _ in 0..8 {
            point += 1;
            waiting(&mut wire, (&ready, point), &mut buffer)?.destroy();
        }
        wire.roundtrip().with_context(|| format!("round {round}"))?;
        // Heard of, whoever waits: the next eight may be watched.
        ready.ours.signal(point)?;
    }
    for _ in 0..9 {
        point += 1;
        waiting(&mut wire, (&ready, point), &mut buffer)?.destroy();
    }
    over_quota(&mut wire, "9 acquire points")?;
    stage.connect()?.roundtrip()
}

/// 10,000 timelines through one client, and 1,000 commits; the kernel and the compositor are as before.
pub fn timelines_of_clients_leave_nothing_behind() -> Result<()> {
    let mut stage = Stage::new("leaks", &[])?;
    let timelines = device::timelines()?;
    let process = Process::open(stage.compositor.pid())?;
    let mut wire = stage.connect()?;
    let surface = wire.bare_surface()?;
    let explicit = wire.explicit(&surface)?;
    let mut buffer = Buffer::new(&stage, &mut wire, Allocator::Vkms, SMALL)?;
    wire.roundtrip()?;
    let oracle = Oracle::new(&timelines)?;
    let files = process.open_files()?;
    for index in 0..MANY {
        let line = stage.line(&wire)?;
        line.theirs.destroy();
        if index % 10 == 0 {
            // On a timeline whose object is gone by the time of the commit, and in part before its point.
            let acquire = stage.line(&wire)?;
            set_points(&explicit, (&acquire, 1), &mut buffer);
            acquire.theirs.destroy();
            surface.attach(Some(&buffer.wl), 0, 0);
            surface.commit();
            acquire.ours.signal(1)?;
        }
        if index % 100 == 99 {
            wire.roundtrip()?;
        }
    }
    surface.attach(None, 0, 0);
    surface.commit();
    wire.roundtrip()?;
    buffer.wait_free()?;
    // What was heard of last is closed with the next that is watched, or with the client.
    drop((buffer, explicit, surface, wire));
    stage.compositor.wait_stats("the client's end", PATIENCE, |stats| {
        stats.surfaces(std::process::id() as i32).is_empty()
    })?;
    oracle.check()?;
    let mut wire = stage.connect()?;
    wire.roundtrip()?;
    let after = process.open_files()?;
    ensure!(after <= files, "{after} open files, {files} before");
    Ok(())
}
