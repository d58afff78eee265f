//! Atomic commits that carry a number, and the flip events that bring it back.
//!
//! It owns the layout of the ioctl and of the events. What a number means is for who commits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use drm::control::{AtomicCommitFlags, from_u32};
use drm_ffi::drm_mode_atomic;
use drm_ffi::drm_sys::DRM_IOCTL_BASE;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

use super::{FlipEvent, Request};

/// `DRM_IOCTL_MODE_ATOMIC`, drm.h.
const ATOMIC: Opcode = opcode::read_write::<drm_mode_atomic>(DRM_IOCTL_BASE, 0xBC);
/// `DRM_EVENT_FLIP_COMPLETE`, drm.h.
const FLIP_COMPLETE: u32 = 2;
/// Bytes of `struct drm_event` and of `struct drm_event_vblank`, drm.h.
const HEAD: usize = 8;
const VBLANK: usize = 32;

/// Commits a request; its number is that of its events.
pub(super) fn commit(
    fd: BorrowedFd<'_>,
    flags: AtomicCommitFlags,
    request: &mut Request,
) -> Result<(), Errno> {
    let mut atomic = drm_mode_atomic {
        flags: flags.bits(),
        count_objs: u32::try_from(request.objects.len()).map_err(|_| Errno::INVAL)?,
        objs_ptr: request.objects.as_mut_ptr() as u64,
        count_props_ptr: request.counts.as_mut_ptr() as u64,
        props_ptr: request.properties.as_mut_ptr() as u64,
        prop_values_ptr: request.values.as_mut_ptr() as u64,
        user_data: request.number,
        ..drm_mode_atomic::default()
    };
    loop {
        // SAFETY: the ioctl reads one `drm_mode_atomic` and the four lists that it names, which live in `request` and are as
        // long as it says: `Request::set` keeps `counts` in step with `objects`, and their sum is the length of the other
        // two. What property values point to (fence descriptors) is its caller's, and the kernel keeps no pointer.
        match unsafe { rustix::ioctl::ioctl(fd, Updater::<ATOMIC, _>::new(&mut atomic)) } {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Appends the flips whose events wait on a card.
///
/// # Errors
/// EAGAIN when none does; others when the device is gone.
pub(super) fn read_events(fd: BorrowedFd<'_>, flips: &mut Vec<FlipEvent>) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let read = rustix::io::read(fd, &mut bytes)?;
    parse(&bytes[..read], flips);
    Ok(())
}

/// The flips among events as the kernel writes them.
fn parse(mut bytes: &[u8], flips: &mut Vec<FlipEvent>) {
    while let (Some(kind), Some(length)) = (word(bytes, 0), word(bytes, 4)) {
        let length = length as usize;
        if length < HEAD || length > bytes.len() {
            tracing::warn!(length, left = bytes.len(), "events of a card cut off");
            return;
        }
        let (event, rest) = bytes.split_at(length);
        bytes = rest;
        if kind == FLIP_COMPLETE && length >= VBLANK {
            flips.extend(flip(event));
        }
    }
}

fn flip(event: &[u8]) -> Option<FlipEvent> {
    let number = event.get(8..16)?.try_into().ok().map(u64::from_ne_bytes)?;
    let time = Duration::from_secs(word(event, 16)?.into()) + Duration::from_micros(word(event, 20)?.into());
    Some(FlipEvent { crtc: from_u32(word(event, 28)?)?, time, sequence: word(event, 24)?, number })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u32, length: u32, number: u64, rest: [u32; 4]) -> Vec<u8> {
        let head = [kind, length].into_iter().flat_map(u32::to_ne_bytes);
        head.chain(number.to_ne_bytes()).chain(rest.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let mut flips = Vec::new();
        let number = u64::from(u32::MAX) + 7;
        let (vblank, flip) = (event(1, 32, 1, [1, 2, 3, 4]), event(2, 32, number, [9, 250_000, 77, 42]));
        parse(&[vblank, flip.clone(), flip[..20].to_vec()].concat(), &mut flips);
        let time = Duration::from_millis(9250);
        assert_eq!(flips, [FlipEvent { crtc: from_u32(42).unwrap(), time, sequence: 77, number }]);
        for bad in [event(2, 0, 1, [1; 4]), event(2, 7, 1, [1; 4]), event(2, 16, 1, [1; 4])] {
            parse(&bad, &mut flips);
        }
        parse(&[], &mut flips);
        assert_eq!(flips.len(), 1);
    }
}
