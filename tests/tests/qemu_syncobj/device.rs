//! drm-prime's timelines on a real driver.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use drm_prime::{KernelDevice, NoTimelines, TimelineError, Timelines};
use lab::vkms::card_by_driver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::leaks::Oracle;

pub fn open(node: &Path) -> Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(node);
    Ok(file.with_context(|| format!("cannot open {}", node.display()))?.into())
}

/// Timelines on a file of their own, as a client has them.
pub fn timelines() -> Result<Timelines> {
    Ok(Timelines::new(open(&card_by_driver("virtio_gpu")?)?)?)
}

pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

fn render_node() -> Result<PathBuf> {
    let card = card_by_driver("virtio_gpu")?;
    let name = card.file_name().context("a node without a name")?;
    let siblings = Path::new("/sys/class/drm").join(name).join("device/drm");
    let entries = std::fs::read_dir(&siblings).with_context(|| siblings.display().to_string())?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.find(|name| name.starts_with("renderD")).context("the device has no render node")?;
    Ok(Path::new("/dev/dri").join(name))
}

/// The card, the render node, and the PRIME file, which is an empty lease.
pub fn every_file_of_the_device_has_timelines() -> Result<()> {
    let card = card_by_driver("virtio_gpu")?;
    let master = open(&card)?;
    Timelines::new(open(&render_node()?)?).context("render node")?;
    Timelines::new(open(&card)?).context("card")?;
    let device = KernelDevice::acquire(master.as_fd(), Some(&card))?;
    let timelines = Timelines::of_device(&device).context("prime file")?;
    let timeline = timelines.create()?;
    // Timelines keep the file: it is used after the device is gone.
    drop((device, timelines, master));
    timeline.signal(1)?;
    ensure!(timeline.is_signalled(1)?);
    Ok(())
}

pub fn a_driver_without_timelines_says_so() -> Result<()> {
    let answer = Timelines::new(open(&card_by_driver("vgem")?)?);
    ensure!(matches!(answer, Err(NoTimelines::Driver)), "{answer:?}");
    Ok(())
}

pub fn a_point_is_heard_of_when_it_signals() -> Result<()> {
    let (ours, theirs) = (timelines()?, timelines()?);
    let client = theirs.create()?;
    let server = ours.import(client.export()?.as_fd())?;
    // Nobody has promised any of these points yet.
    let events = [server.watch(5)?, server.watch(10)?, server.watch(u64::MAX)?];
    let heard = || events.each_ref().map(|event| is_readable(event.as_fd()));
    ensure!(heard() == [false; 3] && !server.is_signalled(1)?);
    client.signal(4)?;
    ensure!(heard() == [false; 3] && server.is_signalled(4)? && !server.is_signalled(5)?);
    client.signal(7)?;
    ensure!(heard() == [true, false, false], "a later point signals those before it: {:?}", heard());
    ensure!(is_readable(server.watch(6)?.as_fd()), "a point that has signalled is heard of at once");
    // The other's handle and file go; the timeline stays.
    drop((client, theirs));
    server.signal(10)?;
    ensure!(heard() == [true, true, false]);
    ensure!(server.is_signalled(10)? && !server.is_signalled(11)?);
    Ok(())
}

pub fn points_go_from_one_timeline_to_another() -> Result<()> {
    let timelines = timelines()?;
    let (from, to) = (timelines.create()?, timelines.create()?);
    let unpromised = from.transfer(1, &to, 3);
    ensure!(matches!(unpromised, Err(TimelineError::System { .. })), "{unpromised:?}");
    from.signal(1)?;
    from.transfer(1, &to, 3)?;
    ensure!(to.is_signalled(3)? && !to.is_signalled(4)?);
    Ok(())
}

pub fn what_is_no_syncobj_is_refused() -> Result<()> {
    let timelines = timelines()?;
    let (pipe, _writer) = rustix::pipe::pipe()?;
    let event = timelines.create()?.watch(1)?;
    let null = File::open("/dev/null")?;
    let card = open(&card_by_driver("virtio_gpu")?)?;
    for fd in [pipe.as_fd(), event.as_fd(), null.as_fd(), card.as_fd()] {
        let answer = timelines.import(fd);
        ensure!(matches!(answer, Err(TimelineError::NotSyncobj)), "{answer:?}");
    }
    Ok(())
}

/// 10,000 of another process, imported and let go of; each import is a handle of its own.
pub fn timelines_leave_nothing_behind() -> Result<()> {
    let (ours, theirs) = (timelines()?, timelines()?);
    let oracle = Oracle::new(&theirs)?;
    let files = std::fs::read_dir("/proc/self/fd")?.count();
    for _ in 0..super::leaks::MANY {
        let client = theirs.create()?;
        let fd = client.export()?;
        let (one, two) = (ours.import(fd.as_fd())?, ours.import(fd.as_fd())?);
        one.signal(1)?;
        ensure!(two.is_signalled(1)?);
    }
    oracle.check()?;
    let after = std::fs::read_dir("/proc/self/fd")?.count();
    ensure!(after == files, "{after} open files, {files} before");
    Ok(())
}
