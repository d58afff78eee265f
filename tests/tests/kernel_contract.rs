//! The conformance suite on the lab's kernel: as it is, and without what older kernels lack.
//!
//! Owns also the one case that takes a device which comes and goes.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use drm::buffer::Buffer;
use drm::control::Device as _;
use drm_fourcc::DrmFourcc;
use primeway_tests::buffer::Mapping;
use primeway_tests::contract::denied::{Denials, Denied};
use primeway_tests::contract::kernel::Kernel;
use primeway_tests::contract::suite;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::kernel_cases::{self, NamedCase};

fn main() -> ExitCode {
    let mut cases: Vec<NamedCase> = Vec::new();
    for case in suite::all() {
        cases.push((format!("kernel::{}", case.name), Box::new(move || plain(&case))));
    }
    for (name, denials) in Denials::EACH {
        for case in suite::all() {
            let run = move || suite::run(&case, &mut Denied::new(Kernel::new()?, *denials));
            cases.push((format!("{name}::{}", case.name), Box::new(run)));
        }
    }
    cases.push((
        "kernel::i09_the_dmabuf_outlives_its_device".to_owned(),
        Box::new(i09_the_dmabuf_outlives_its_device),
    ));
    kernel_cases::run_named(env!("CARGO_CRATE_NAME"), cases)
}

fn plain(case: &suite::Case) -> Result<()> {
    suite::run(case, &mut Kernel::new()?)
}

/// configfs takes a display away: its memory can still be mapped, and imported elsewhere.
fn i09_the_dmabuf_outlives_its_device() -> Result<()> {
    let display = lab::vkms::Device::create("brief", &"overlays=1".parse()?)?;
    let card = DrmNode::open(&display.card_node()?)?;
    let dumb = card.create_dumb_buffer((64, 64), DrmFourcc::Xrgb8888, 32)?;
    let fd = card.buffer_to_prime_fd(dumb.handle(), drm::CLOEXEC | drm::RDWR)?;
    let size = 64 * 64 * 4;
    card.destroy_dumb_buffer(dumb)?;
    let mut before = Mapping::shared(fd.as_fd(), size)?;
    before.bytes_mut().fill(0x5a);
    // A file that is still open outlives its device, too.
    display.remove()?;
    ensure!(card.create_dumb_buffer((64, 64), DrmFourcc::Xrgb8888, 32).is_ok(), "old files stopped working");
    drop(card);
    ensure!(before.bytes_mut()[size as usize - 1] == 0x5a, "the mapping lost its memory");
    drop(before);
    let mut after = Mapping::shared(fd.as_fd(), size)?;
    ensure!(after.bytes_mut()[0] == 0x5a, "a new mapping shows other memory");
    let importer = DrmNode::of_driver("vgem")?;
    let handle = importer.prime_fd_to_buffer(fd.as_fd())?;
    let again = importer.buffer_to_prime_fd(handle, drm::CLOEXEC)?;
    let inode = |fd: &OwnedFd| Ok::<_, anyhow::Error>(rustix::fs::fstat(fd)?.st_ino);
    ensure!(inode(&again)? == inode(&fd)?, "another buffer");
    importer.close_buffer(handle)?;
    Ok(())
}
