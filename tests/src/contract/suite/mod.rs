//! The conformance suite: what must hold on every side of the contract, one case per invariant, errno row and IGT subtest.
//!
//! Owns the table of cases and how one is run: on fresh slots, with everything closed afterwards and the census back
//! where it was. Names say where a case comes from: `i05_` is an invariant of the contract, `igt_` a subtest of
//! intel-gpu-tools, ported to dumb buffers. Every case runs on every side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Contract, Device, Dumb, Fd, File, Node, RDWR, fine};

mod addfb;
mod counts;
mod denials;
mod errno;
mod fences;
mod framebuffers;
mod identity;
mod memory;
mod self_import;

/// What a case does with a side.
pub type Body = fn(&mut dyn Contract) -> Result<()>;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, the same on every side.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
}

/// Makes the table of a theme; the name of a case is that of its function.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::contract::suite::Case] =
            &[$($crate::contract::suite::Case { name: stringify!($name), body: $name }),*];
    };
}
use cases;

/// Every case, theme by theme.
#[must_use]
pub fn all() -> Vec<Case> {
    let themes = [
        identity::CASES,
        counts::CASES,
        errno::CASES,
        self_import::CASES,
        memory::CASES,
        fences::CASES,
        addfb::CASES,
        framebuffers::CASES,
        denials::CASES,
    ];
    themes.concat()
}

/// Runs a case, closes what it left open, and demands that nothing but that is alive afterwards.
///
/// # Errors
///
/// What did not hold, or what leaked.
pub fn run(case: &Case, side: &mut dyn Contract) -> Result<()> {
    side.close_everything();
    let before = settled(side)?;
    let outcome = (case.body)(side);
    side.close_everything();
    outcome?;
    // A display gives up its last framebuffer when its worker comes to it.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let after = side.census()?;
        if after == before {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("left behind: before {before:?}, after {after:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The census, once it has stopped changing.
fn settled(side: &mut dyn Contract) -> Result<super::Census> {
    let mut last = side.census()?;
    for _ in 0..100 {
        if last.framebuffers == 0 {
            return Ok(last);
        }
        std::thread::sleep(Duration::from_millis(10));
        last = side.census()?;
    }
    bail!("{} framebuffers of an earlier case are still there", last.framebuffers)
}

fn vgem(side: &mut dyn Contract) -> Result<File> {
    fine("open vgem", side.open(Device::Vgem, Node::Primary))
}

fn vkms(side: &mut dyn Contract) -> Result<File> {
    fine("open vkms", side.open(Device::Vkms, Node::Primary))
}

fn render(side: &mut dyn Contract) -> Result<File> {
    fine("open vgem's render node", side.open(Device::Vgem, Node::Render))
}

/// A buffer of `pages` pages; with 32 bits a pixel it is 32 pixels wide and 32 high per page.
fn buffer(side: &mut dyn Contract, file: File, pages: u32) -> Result<Dumb> {
    let dumb = fine("CREATE_DUMB", side.create_dumb(file, 32, 32 * pages, 32))?;
    ensure!(dumb.pitch == 128 && dumb.size == u64::from(pages) * super::PAGE, "{dumb:?}");
    Ok(dumb)
}

/// A buffer that a 64 by 64 XRGB8888 framebuffer fits into.
fn square(side: &mut dyn Contract, file: File) -> Result<Dumb> {
    fine("CREATE_DUMB", side.create_dumb(file, 64, 64, 32))
}

fn export(side: &mut dyn Contract, file: File, handle: u32) -> Result<Fd> {
    fine("HANDLE_TO_FD", side.handle_to_fd(file, handle, super::CLOEXEC | RDWR))
}

fn import(side: &mut dyn Contract, file: File, fd: Fd) -> Result<u32> {
    fine("FD_TO_HANDLE", side.fd_to_handle(file, super::FdArg::Dmabuf(fd), 0))
}

/// A page of a file, exported; the handle stays open.
fn exported(side: &mut dyn Contract, file: File) -> Result<(u32, Fd)> {
    let handle = buffer(side, file, 1)?.handle;
    Ok((handle, export(side, file, handle)?))
}

fn count(side: &mut dyn Contract, fd: Fd) -> Result<u64> {
    fine("count:", side.count(fd))
}

fn expect_count(side: &mut dyn Contract, when: &str, fd: Fd, expected: u64) -> Result<()> {
    let count = count(side, fd)?;
    ensure!(count == expected, "{when}: count {count}, not {expected}");
    Ok(())
}

fn inode(side: &mut dyn Contract, fd: Fd) -> Result<u64> {
    fine("fstat", side.inode(fd))
}

fn expect_equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Result<()> {
    ensure!(got == expected, "{what}: {got:?} instead of {expected:?}");
    Ok(())
}

/// The first byte behind a descriptor, through a mapping made for that.
fn first_byte(side: &mut dyn Contract, fd: Fd) -> Result<u8> {
    let map = fine("mmap", side.mmap(fd, 0, super::PAGE, false)).context("to look at it")?;
    let byte = side.peek(map, 0);
    side.unmap(map);
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn every_invariant_and_every_ported_test_has_a_case() {
        let names: Vec<_> = all().iter().map(|case| case.name).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "two cases of one name");
        let invariants = (1..=14).map(|number| format!("i{number:02}_"));
        let ported = [
            "prime_self_import",
            "prime_mmap",
            "vgem_basic",
            "dmabuf_sync_file",
            "kms_addfb_basic",
            "kms_getfb",
            "kms_rmfb",
            "kms_prime",
        ];
        for prefix in invariants.chain(ported.map(|test| format!("igt_{test}_"))) {
            assert!(names.iter().any(|name| name.starts_with(&prefix)), "no case for {prefix}");
        }
    }
}
